"""raydiar: who spoke when, and where else does this voice speak, over millions of hours.

Names resolve on first use (PEP 562), so that a decoding or clustering process never pays for
torch (600 MB and 3 s), and nothing here ever starts Ray.
"""

from importlib import import_module

from raydiar.compat import install as _install_aliases

__version__ = "0.1.0"

_HOMES = {
    "Pipeline": "raydiar.pipelines",
    "Model": "raydiar.models",
    "Inference": "raydiar.inference.sliding",
    "Audio": "raydiar.inference.waveforms",
    "SpeakerVerification": "raydiar.voiceprints.pairs",
    "Diarization": "raydiar.diarization",
}

__all__ = ["__version__", *_HOMES]


_install_aliases()


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'raydiar' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
