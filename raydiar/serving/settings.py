"""What an operator decides about a server; `serve.yaml` gives it as the application's `args`."""

from __future__ import annotations

from typing import Literal

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
    index_shards : int or None
        Ray actors that share the index among them; None: one replica holds it all.
    index_keys : tuple of str or None
        Ids of the keys that may search in it; None: all.
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
    max_machine_failures : int
        Attempts that machines failed at, which do not count as its own, before it has failed too.
    max_queued_jobs : int
    max_queued_hours : float, h
        Of audio; both: above, new jobs are answered with 429.
    key_queued_jobs, key_queued_hours : int, float
        The same of one key.
    key_running_jobs : int or None
        Jobs of one key under way at a time. None: all but one of those that there is room for, so
        that nobody waits for the long recordings of one; without keys all.
    key_stored_gb : float, GB
        Uploads of one key that are kept at a time.
    reads_per_minute, submissions_per_minute : int
        Requests of one key, by each replica of the ingress; 0: no limit.
    requests_per_key : int
        Uploads of one key, downloads, and requests that wait for their result, each at a time, and
        in one replica of the ingress.
    max_waiting, max_uploads : int
        Of all keys.
    min_upload_rate : float
        Bytes per second that an upload must have on the average.
    no_keys : bool
        Whether a server whose keys are all revoked may start, for this machine.
    result_hours, media_hours : float, h
        How long results and uploads are kept.
    max_bytes, max_hours
        Of a recording.
    decode_time_limit : float, s
    fetches_per_worker : int
        Recordings that a worker fetches from URLs at a time, besides the jobs that it runs.
    worker_pcm_gb : float, GB
        Decoded audio that a worker holds at a time; others wait. A day of audio is 2.8 GB.
    webhook_signature : str
        "base64", as published, or "hex".
    webhook_secret : str or None
        Signs the webhooks of a server without keys; every key has a secret of its own.
    allow_hosts, allow_buckets : tuple of str
        See `raydiar.serving.outbound.fetching.FetchPolicy`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str | None = None
    device: str = "auto"
    index: str | None = None
    index_shards: int | None = Field(None, ge=1)
    index_keys: tuple[str, ...] | None = None
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
    max_machine_failures: int = Field(24, ge=1)
    max_queued_jobs: int = Field(10_000, ge=1)
    max_queued_hours: float = Field(2_000.0, gt=0)
    key_queued_jobs: int = Field(2_500, ge=1)
    key_queued_hours: float = Field(500.0, gt=0)
    key_running_jobs: int | None = Field(None, ge=1)
    key_stored_gb: float = Field(100.0, gt=0)
    reads_per_minute: int = Field(300, ge=0)
    submissions_per_minute: int = Field(100, ge=0)
    requests_per_key: int = Field(50, ge=1)
    max_waiting: int = Field(200, ge=1)
    max_uploads: int = Field(300, ge=1)
    min_upload_rate: float = Field(4096.0, ge=0)
    no_keys: bool = False
    fetches_per_worker: int = Field(8, ge=1)
    worker_pcm_gb: float = Field(4.0, gt=0)
    webhook_signature: Literal["base64", "hex"] = "base64"
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
