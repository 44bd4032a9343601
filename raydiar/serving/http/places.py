"""Requests that take long, of which a process answers so many at a time, and of one key fewer."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from raydiar.errors import QueueFull

_RETRY_SECONDS = 10.0


class Places:
    """
    Parameters
    ----------
    what : str
        They are, in messages.
    total, per_owner : int
    """

    def __init__(self, what: str, total: int, per_owner: int):
        self._what = what
        self._total = total
        self._per_owner = per_owner
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, owner: str) -> Iterator[None]:
        """A place for an owner's request while the block lasts.

        Raises
        ------
        QueueFull
            When there is none.
        """
        mine, all_of_them = self._taken[owner], self._taken.total()
        if mine >= self._per_owner or all_of_them >= self._total:
            who, number = ("of this key ", mine) if mine >= self._per_owner else ("", all_of_them)
            raise QueueFull(
                f"{number} {self._what} {who}are under way, and no more may be; try again in "
                f"{_RETRY_SECONDS:.0f} s",
                _RETRY_SECONDS,
            )
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]
