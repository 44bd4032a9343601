"""How many requests of one key are answered in a minute, as the public service limits them.

Counted in this process: each replica of the ingress has its share of what a key may ask, for a
count in the database would cost every request a write.
"""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter


@dataclass(frozen=True)
class Rate:
    """How a key stands.

    Attributes
    ----------
    allowed : bool
        Whether the request that was counted may pass.
    limit, remaining : int
        Requests in a minute, and those that are left.
    reset : float
        Seconds until there is one more.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float

    def headers(self) -> dict[str, str]:
        """As the public service tells them; `Retry-After` where the request may not pass."""
        told = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(math.ceil(self.reset)),
        }
        if not self.allowed:
            told["Retry-After"] = str(max(1, math.ceil(self.reset)))
        return told


class Rates:
    """
    Parameters
    ----------
    reads, submissions : int
        Of one key in a minute; 0 is no limit.
    """

    def __init__(self, reads: int, submissions: int):
        self._limits = {
            kind: RateLimitItemPerMinute(number, namespace=kind)
            for kind, number in (("reads", reads), ("submissions", submissions))
            if number
        }
        self._counter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, owner: str, reads: bool) -> Rate | None:
        """Count a request, if it may pass; None where there is no limit."""
        limit = self._limits.get("reads" if reads else "submissions")
        if limit is None:
            return None
        allowed = self._counter.hit(limit, owner)
        reset_at, remaining = self._counter.get_window_stats(limit, owner)
        return Rate(allowed, limit.amount, remaining, max(0.0, reset_at - time.time()))
