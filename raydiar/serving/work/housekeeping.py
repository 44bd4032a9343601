"""What workers do beside jobs: send webhooks that are due, and delete what has expired.

Every worker does so; the database lets each webhook out to one of them at a time, and deleting
twice harms nobody.
"""

import asyncio
import json
import random
import time
from typing import Any

from raydiar.errors import RaydiarError
from raydiar.serving.jobs.records import Job
from raydiar.serving.logs import get_logger
from raydiar.serving.outbound.addresses import FetchPolicy
from raydiar.serving.outbound.webhooks import deliver, next_attempt
from raydiar.serving.settings import ServeSettings
from raydiar.serving.stores import Stores

_LOOK_SECONDS = 1.0
_LEASE_SECONDS = 60.0
_AT_A_TIME = 10
_EXPIRY_SECONDS = 60.0
_SWEEP_SECONDS = 3600.0

logger = get_logger("ray.serve")


class Housekeeping:
    """
    Parameters
    ----------
    settings : ServeSettings
    stores : Stores
    name : str
        Of the worker.
    """

    def __init__(self, settings: ServeSettings, stores: Stores, name: str):
        self._settings = settings
        self._stores = stores
        self._name = name
        self._policy = FetchPolicy(allow_hosts=settings.allow_hosts)

    async def webhooks(self) -> None:
        """Send webhooks for ever."""
        if self._settings.webhook_secret is None:
            await asyncio.Event().wait()
        while True:
            sent = 0
            try:
                sent = await self._send_due()
            except Exception:
                logger.warning("webhooks have to wait", exc_info=True)
            if not sent:
                await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.8, 1.2))

    async def expiry(self) -> None:
        """Delete what has expired for ever."""
        swept = 0.0
        while True:
            try:
                await asyncio.to_thread(self._stores.jobs.expire)
                await self._expire_media()
                if time.time() > swept + _SWEEP_SECONDS:
                    swept = time.time()
                    # what no record names: leftovers of uploads that broke off
                    await self._stores.media.expire(
                        swept - self._settings.media_hours * 3600.0 - _SWEEP_SECONDS
                    )
            except RaydiarError as error:
                logger.warning("deleting what has expired has to wait: %s", error)
            except Exception:
                logger.exception("deleting what has expired failed")
            await asyncio.sleep(_EXPIRY_SECONDS * random.uniform(0.8, 1.2))

    async def _send_due(self) -> int:
        due = await asyncio.to_thread(
            self._stores.jobs.due_webhooks, self._name, _LEASE_SECONDS, _AT_A_TIME
        )
        await asyncio.gather(*(self._send(job) for job in due))
        return len(due)

    async def _send(self, job: Job) -> None:
        delivery = await deliver(
            job.webhook,
            webhook_body(job),
            self._settings.webhook_secret,
            self._policy,
            job.webhook_attempts,
            job.webhook_error,
        )
        if delivery.ok:
            await asyncio.to_thread(self._stores.jobs.webhook_sent, job)
            return
        again = next_attempt(job.webhook_attempts, time.time())
        await asyncio.to_thread(self._stores.jobs.webhook_failed, job, delivery.reason, again)

    async def _expire_media(self) -> None:
        records = await asyncio.to_thread(self._stores.media_records.expired)
        for record in records:
            # uploaded again under its key, it is the same file that another record names
            newer = await asyncio.to_thread(
                self._stores.media_records.get, record.owner, record.key
            )
            if newer is None or newer.store_path != record.store_path:
                await self._stores.media.delete_path(record.store_path)
        if records:
            await asyncio.to_thread(self._stores.media_records.forget, records)


def webhook_body(job: Job) -> dict[str, Any]:
    """What a webhook says of a job that is over."""
    body: dict[str, Any] = {"jobId": job.job_id, "status": job.status}
    if job.webhook_status_only:
        return body
    if job.status == "succeeded":
        body["output"] = json.loads(job.output)
    elif job.status == "failed":
        body["output"] = {"error": job.error}
    return body
