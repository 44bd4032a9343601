"""The server: pyannoteAI's REST interface, and a page, over the same pipeline.

    app          the application of Ray Serve: what is deployed, and how its parts are joined
    commands     `raydiar serve …`
    settings     what an operator decides
    stores       what every process opens
    failures     whose failure it is
    logs         loggers that tell no secrets

Where a rule lives, and what it is about:

    who may call, and what a server without keys answers       http/access
    what a request may hold, with the interface's names         http/schemas
    size and headers of all requests                            http/envelope
    how an error is answered                                    http/problems
    a route                                                     http/routes/…
    whose job is next, and that nobody takes it twice           jobs/claims
    what becomes of a job after an attempt                      jobs/store
    how much may wait                                           jobs/limits
    names, signed URLs, whole-or-not uploads                    media/store, media/uploads
    whose upload it is, and until when                          media/records
    which addresses of clients may be opened                    outbound/addresses
    redirects, retries and time limits of fetching              outbound/fetching
    signature and retries of webhooks                           outbound/webhooks
    what a worker does when something fails                     work/worker
    from a job to its output                                    work/processing
    when webhooks leave, and when what has expired goes         work/housekeeping
    batches across recordings                                   deployments/batching
    what each part is given of the cluster                      deployments/placement
    the form of a result                                        results/output
    who is who among voiceprints                                results/identification
    API keys                                                    storage/keys
    tables, and short transactions on them                      storage/tables, storage/database
    the page                                                    web/

Below imports nothing from above: logs and settings; storage; outbound; jobs and media; stores,
failures and results; deployments; http and work; app and commands (`tests/test_walls.py`).
"""
