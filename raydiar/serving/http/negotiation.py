"""Which media type to answer with (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence


def best_type(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer that an Accept header likes most; the first of equals, None if it likes none.

    The most specific range that fits an offer decides its weight.
    """
    if not (accept or "").strip():
        return offers[0]
    ranges = [_parse(part) for part in accept.split(",") if part.strip()]
    weights = [_weight(offer, ranges) for offer in offers]
    return offers[weights.index(max(weights))] if max(weights) > 0 else None


def _parse(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                weight = float(parameter[2:])
            except ValueError:
                weight = 0.0
    return name, weight


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    for wanted in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        fitting = [weight for name, weight in ranges if name == wanted]
        if fitting:
            return max(fitting)
    return 0.0
