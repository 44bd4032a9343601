"""Pictures of turns in files: SVG of our own, PNG by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raydiar.diarization import Diarization
from raydiar.errors import ConfigError, OutputError
from raydiar.picture import draw_svg

_KINDS = (".svg", ".png")


def check_picture(path: str | Path) -> None:
    """
    Raises
    ------
    ConfigError
        If no picture can be written under this name.
    """
    kind = Path(path).suffix.lower()
    if kind not in _KINDS:
        raise ConfigError(f"{path}: a picture ends in {' or '.join(_KINDS)}")
    if kind == ".png":
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"{path}: PNG needs matplotlib: pip install 'raydiar[plot]', or write "
                f"{Path(path).with_suffix('.svg')}, which needs nothing"
            ) from error


def write_picture(diarizations: Sequence[Diarization], path: str | Path) -> None:
    """Draw recordings, one below the other.

    Parameters
    ----------
    diarizations : sequence of Diarization
    path : str or Path
        Ends in `.svg` or `.png`.

    Raises
    ------
    ConfigError, OutputError
    """
    check_picture(path)
    try:
        if Path(path).suffix.lower() == ".svg":
            Path(path).write_text(draw_svg(diarizations), encoding="utf-8")
        else:
            _figure(diarizations).savefig(path, dpi=150)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error})") from error


def _figure(diarizations: Sequence[Diarization]):
    from matplotlib.figure import Figure

    heights = [0.9 + 0.4 * max(1, one.num_speakers) for one in diarizations] or [1.0]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for axis, diarization in zip(axes, diarizations, strict=False):
        diarization.plot(axis)
        axis.set_title(diarization.uri, loc="left", fontsize="medium")
    return figure
