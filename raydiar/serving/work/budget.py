"""Memory for decoded audio, handed out by what a recording is said to last."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SAMPLE_BYTES = 2
_SMALL_SHARE = 0.25


class PcmBudget:
    """Bytes of PCM that a process may hold at a time; who finds too few waits for its turn.

    A quarter is for recordings that fit eight times into it, so that meetings do not wait behind
    days; among those of a kind the first comes first, and none waits for ever. One that asks for
    more than there is has it all.

    Parameters
    ----------
    total : int
        Bytes.
    """

    def __init__(self, total: int):
        small = int(_SMALL_SHARE * total)
        self._most_of_small = small // 8
        self._small, self._large = _Pool(small), _Pool(total - small)

    @asynccontextmanager
    async def room(self, num_bytes: int) -> AsyncIterator[None]:
        """Hold so many bytes while the block lasts."""
        pool = self._small if num_bytes <= self._most_of_small else self._large
        taken = await pool.take(num_bytes)
        try:
            yield
        finally:
            pool.give_back(taken)


class _Pool:
    def __init__(self, total: int):
        self._total = self._free = max(1, total)
        self._waiting: deque[tuple[int, asyncio.Future]] = deque()

    async def take(self, wanted: int) -> int:
        wanted = min(wanted, self._total)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(wanted)  # it had just been given
            else:
                turn.cancel()
                self._serve()  # others may have waited behind it
            raise
        return wanted

    def give_back(self, taken: int) -> None:
        self._free += taken
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()
