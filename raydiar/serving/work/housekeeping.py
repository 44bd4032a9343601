"""What workers do beside jobs: send webhooks that are due, and delete what has expired.

Every worker does so; the database lets each webhook out to one of them at a time, and deleting
twice harms nobody.
"""

import asyncio
import json
import random
import time
from collections import Counter
from functools import partial
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
_AT_A_TIME = 40
_PER_OWNER = 4  # whose server is slow keeps these waiting, and nobody else
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
        self._sending: set[asyncio.Task] = set()
        self._of_owner: Counter[str] = Counter()

    async def webhooks(self) -> None:
        """Send webhooks for ever; a slow receiver holds up its own owner's only."""
        try:
            while True:
                started = 0
                try:
                    started = await self._start_due()
                except Exception:
                    logger.warning("webhooks have to wait", exc_info=True)
                if not started:
                    await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.8, 1.2))
        finally:
            for sending in list(self._sending):
                sending.cancel()

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
                    kept = await asyncio.to_thread(self._stores.media_records.store_paths)
                    await self._stores.media.expire(
                        swept - self._settings.media_hours * 3600.0 - _SWEEP_SECONDS, kept
                    )
            except RaydiarError as error:
                logger.warning("deleting what has expired has to wait: %s", error)
            except Exception:
                logger.exception("deleting what has expired failed")
            await asyncio.sleep(_EXPIRY_SECONDS * random.uniform(0.8, 1.2))

    async def _start_due(self) -> int:
        room = _AT_A_TIME - len(self._sending)
        if not room:
            return 0
        full = [owner for owner, number in self._of_owner.items() if number >= _PER_OWNER]
        due = await asyncio.to_thread(
            self._stores.jobs.due_webhooks,
            self._name,
            _LEASE_SECONDS,
            room,
            per_owner=_PER_OWNER,
            not_of=full,
        )
        for job in due:
            sending = asyncio.create_task(self._send(job))
            self._sending.add(sending)
            self._of_owner[job.owner] += 1
            sending.add_done_callback(partial(self._sent, job.owner))
        return len(due)

    def _sent(self, owner: str, sending: asyncio.Task) -> None:
        self._sending.discard(sending)
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]
        if not sending.cancelled() and sending.exception() is not None:
            # its lease ends, and it is due again
            logger.warning("the fate of a webhook is not noted: %s", sending.exception())

    async def _send(self, job: Job) -> None:
        secret = await asyncio.to_thread(self._stores.webhook_secrets.of, job.owner)
        delivery = await deliver(
            job.webhook,
            webhook_body(job),
            secret,
            self._policy,
            job.webhook_attempts,
            job.webhook_error,
            self._settings.webhook_signature,
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
