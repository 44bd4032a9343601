"""SAMPLE_FILE: half a minute of two people talking, with its reference, to try things out.

It comes from the wheel of pyannote.audio (MIT licence), which is brought here on first use.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from raydiar import hub
from raydiar.diarization import read_rttm

_SAMPLE = "pypi://pyannote.audio==4.0.7/pyannote/audio/sample/sample"
_WAV = f"{_SAMPLE}.wav#sha256=c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e"
_RTTM = f"{_SAMPLE}.rttm#sha256=d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87"


@cache
def _sample() -> dict[str, Any]:
    from pyannote.core import Segment, Timeline

    [reference] = read_rttm(hub.fetch(_RTTM)).values()
    return {
        "uri": "sample",
        "audio": hub.fetch(_WAV),
        "annotation": reference.speaker_diarization,
        "annotated": Timeline([Segment(0.0, 30.0)], uri="sample"),
    }


def __getattr__(name: str):
    if name == "SAMPLE_FILE":
        return dict(_sample())
    raise AttributeError(f"module 'raydiar.sample' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["SAMPLE_FILE"]
