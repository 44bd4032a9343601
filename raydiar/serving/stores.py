"""What a server keeps, opened by each of its processes: jobs, uploads, keys."""

from dataclasses import dataclass

from raydiar.serving.jobs.limits import QueueLimits
from raydiar.serving.jobs.store import JobStore
from raydiar.serving.jobs.versions import Versions
from raydiar.serving.media.records import MediaRecords
from raydiar.serving.media.store import MediaStore
from raydiar.serving.settings import ServeSettings
from raydiar.serving.storage.database import open_database
from raydiar.serving.storage.keys import ANONYMOUS, KeyRing
from raydiar.serving.storage.secrets import WebhookSecrets, shared_secret


@dataclass(frozen=True)
class Stores:
    """See the classes; `open_stores` makes it."""

    jobs: JobStore
    versions: Versions
    media: MediaStore
    media_records: MediaRecords
    keys: KeyRing
    webhook_secrets: WebhookSecrets


def open_stores(settings: ServeSettings, public_url: str) -> Stores:
    """Open the database and the media store.

    Parameters
    ----------
    settings : ServeSettings
    public_url : str
        Where clients reach the server.

    Raises
    ------
    ConfigError, DatabaseUnavailable
    """
    database = open_database(settings.database)
    slots = settings.num_workers * settings.jobs_per_worker
    limits = QueueLimits(
        max_jobs=settings.max_queued_jobs,
        max_seconds=settings.max_queued_hours * 3600.0,
        key_jobs=settings.key_queued_jobs,
        key_seconds=settings.key_queued_hours * 3600.0,
        key_running=settings.key_running_jobs or max(1, slots - 1),
        exempt=ANONYMOUS,
    )
    return Stores(
        jobs=JobStore(
            database,
            limits,
            settings.max_attempts,
            settings.result_hours,
            max_machine_failures=settings.max_machine_failures,
        ),
        versions=Versions(database),
        media=MediaStore(settings.media, shared_secret(database, "media"), public_url),
        media_records=MediaRecords(database, settings.media_hours),
        keys=KeyRing(database),
        webhook_secrets=WebhookSecrets(
            database,
            {ANONYMOUS: settings.webhook_secret} if settings.webhook_secret else {},
        ),
    )
