"""What an operator decides about a server; `serve.yaml` gives it as the application's `args`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from raydiar.devices import parse_device


class ServeSettings(BaseModel):
    """
    Attributes
    ----------
    pipeline : str or None
        Hub repository, directory or config of the pipeline; None: the embedded default.
    device : str
        "auto", "cuda" or "cpu".
    index : str or None
        Voiceprint index that `/v1/search` answers from.
    database : str
        SQLAlchemy URL; SQLite on one node only.
    media : str
        Folder or fsspec URI of uploads; a folder on one node only.
    public_url : str or None
        Under which clients reach the server; by default where it listens.
    num_inference_replicas, max_inference_replicas : int or None
        Serve scales between them. None: one on a GPU, and on CPUs as many as share them best; and
        no more than at first.
    num_workers : int
        Replicas that claim jobs, fetch and decode.
    jobs_per_worker : int
        Jobs that each of them runs at a time.
    batch_seconds : float, s
        Audio of a batch across requests.
    slice_seconds : float or None, s
        Audio that a long recording gives to a batch at most, so that short ones come between.
        None: 120 on a GPU, 30 on CPUs.
    lease_seconds : float, s
        Silence of a worker after which its job is another's.
    max_attempts : int
        Of a job, before it has failed.
    max_queued_jobs : int
    max_queued_hours : float, h
        Of audio; both: above, new jobs are answered with 429.
    result_hours, media_hours : float, h
        How long results and uploads are kept.
    max_bytes, max_hours
        Of a recording.
    decode_time_limit : float, s
    webhook_secret : str or None
        Signs webhooks; without one they are refused.
    allow_hosts, allow_buckets : tuple of str
        See `raydiar.serving.outbound.fetching.FetchPolicy`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str | None = None
    device: str = "auto"
    index: str | None = None
    database: str = "sqlite:///raydiar.sqlite"
    media: str = "raydiar-media"
    public_url: str | None = None
    num_inference_replicas: int | None = Field(None, ge=1)
    max_inference_replicas: int | None = Field(None, ge=1)
    num_workers: int = Field(1, ge=1)
    jobs_per_worker: int = Field(4, ge=1)
    batch_seconds: float = Field(600.0, gt=0)
    slice_seconds: float | None = Field(None, ge=10)
    lease_seconds: float = Field(60.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    max_queued_jobs: int = Field(10_000, ge=1)
    max_queued_hours: float = Field(2_000.0, gt=0)
    result_hours: float = Field(24.0, gt=0)
    media_hours: float = Field(48.0, gt=0)
    max_bytes: int = Field(2**30, ge=1)
    max_hours: float = Field(24.0, gt=0)
    decode_time_limit: float = Field(120.0, gt=0)
    webhook_secret: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_buckets: tuple[str, ...] = ()

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        return parse_device(device, of_cluster=True)

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"public_url begins with http:// or https://, not {url!r}")
        return url.rstrip("/") if url else None
