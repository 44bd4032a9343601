"""How long an upload lasts, looked up when its last byte is there."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from raydiar.audio.isolation import IsolatedDecoder
from raydiar.errors import RaydiarError
from raydiar.serving.media.store import MediaStore

_AT_A_TIME = 2
_SECONDS = 10.0  # a header that takes longer is none


class Prober:
    """Reads headers in child processes, which start when they are needed."""

    def __init__(self):
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="probe")
        self._free: list[IsolatedDecoder] = []

    async def seconds(self, media: MediaStore, owner: str, key: str) -> float | None:
        """What an upload says that it lasts; None if it does not, or is no recording."""
        where = media.uri_of(owner, key)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._probe, where)

    def _probe(self, where: str) -> float | None:
        decoder = self._free.pop() if self._free else IsolatedDecoder(_SECONDS)
        try:
            return decoder.probe(where).duration
        except (RaydiarError, OSError):
            return None  # a job on it will tell why
        finally:
            self._free.append(decoder)
