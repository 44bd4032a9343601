"""How slowly a body may come: who sends a byte a minute must not hold a place for ever."""

import asyncio
import math

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

JSON_SECONDS = 10.0  # for a body that is read whole
GRACE_SECONDS = 10.0  # of silence that an upload may have, besides its rate


def within(receive: Receive, seconds: float) -> Receive:
    """A body that must be there in time, whatever its length.

    Raises
    ------
    HTTPException
        408, from `receive`.
    """
    return _paced(receive, seconds, math.inf)


def at_rate(receive: Receive, bytes_per_second: float) -> Receive:
    """A body that comes at this rate or faster on the average, but for `GRACE_SECONDS`.

    Time in which nobody waits for it, for the disk is slow, does not count.

    Raises
    ------
    HTTPException
        408, from `receive`.
    """
    return _paced(receive, GRACE_SECONDS, bytes_per_second)


def _paced(receive: Receive, grace: float, rate: float) -> Receive:
    waited, received, whole = 0.0, 0, False

    async def receive_paced() -> Message:
        nonlocal waited, received, whole
        if whole:  # what comes now is that the client hangs up
            return await receive()
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            async with asyncio.timeout(max(0.0, grace + received / rate - waited)):
                message = await receive()
        except TimeoutError:
            raise HTTPException(
                408, "The body of this request comes too slowly.", {"Connection": "close"}
            ) from None
        waited += clock() - begun
        received += len(message.get("body", b""))
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return receive_paced
