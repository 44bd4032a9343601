"""pyannote.audio's import paths, and where what they name lives here: one table, `ALIASES`.

    from raydiar.pipelines.utils.hook import ProgressHook

A user of pyannote.audio changes `pyannote.audio` to `raydiar` in imports, and no more. The modules
of the table do not exist as files: a finder makes them on import, with the very objects that
live elsewhere, so that `pydoc`, `inspect` and editors lead there. Nothing else in the house
imports by these paths.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# old module: {name: module in which the object of that name lives}
ALIASES: dict[str, dict[str, str]] = {
    "raydiar.core": {},
    "raydiar.core.io": {
        "Audio": "raydiar.inference.waveforms",
        "AudioFile": "raydiar.inference.waveforms",
    },
    "raydiar.core.inference": {"Inference": "raydiar.inference.sliding"},
    "raydiar.core.model": {
        "Model": "raydiar.models.base",
        "Specifications": "raydiar.models.specifications",
    },
    "raydiar.core.pipeline": {"Pipeline": "raydiar.pipelines.pipeline"},
    "raydiar.core.task": {
        "Specifications": "raydiar.models.specifications",
        "Problem": "raydiar.models.specifications",
        "Resolution": "raydiar.models.specifications",
        "Task": "raydiar.tasks",
    },
    "raydiar.models.segmentation": {
        "PyanNet": "raydiar.models.pyannet",
        "SSeRiouSS": "raydiar.models.sseriouss",
    },
    "raydiar.models.embedding": {
        "XVectorSincNet": "raydiar.models.xvector",
        "XVectorMFCC": "raydiar.models.xvector",
        "WeSpeakerResNet34": "raydiar.models.resnet",
        "WeSpeakerResNet152": "raydiar.models.resnet",
        "WeSpeakerResNet221": "raydiar.models.resnet",
        "WeSpeakerResNet293": "raydiar.models.resnet",
    },
    "raydiar.pipelines.voice_activity_detection": {
        "VoiceActivityDetection": "raydiar.pipelines.detection",
    },
    "raydiar.pipelines.overlapped_speech_detection": {
        "OverlappedSpeechDetection": "raydiar.pipelines.detection",
    },
    "raydiar.pipelines.multilabel": {
        "MultiLabelSegmentation": "raydiar.pipelines.detection",
    },
    "raydiar.pipelines.speaker_verification": {
        "PretrainedSpeakerEmbedding": "raydiar.pipelines.speaker_embedding",
        "SpeakerEmbedding": "raydiar.pipelines.speaker_embedding",
    },
    "raydiar.pipelines.utils": {"get_model": "raydiar.inference.sliding"},
    "raydiar.pipelines.utils.getter": {
        "get_model": "raydiar.inference.sliding",
    },
    "raydiar.pipelines.utils.oracle": {"oracle_segmentation": "raydiar.pipelines.oracle"},
    "raydiar.pipelines.utils.hook": {
        "ProgressHook": "raydiar.pipelines.hooks",
        "TimingHook": "raydiar.pipelines.hooks",
        "ArtifactHook": "raydiar.pipelines.hooks",
        "Hooks": "raydiar.pipelines.hooks",
    },
    "raydiar.utils": {},
    "raydiar.utils.permutation": {"permutate": "raydiar.inference.permutation"},
    "raydiar.utils.preview": {
        "listen": "raydiar.pipelines.preview",
        "preview": "raydiar.pipelines.preview",
    },
    "raydiar.utils.powerset": {"Powerset": "raydiar.inference.powerset"},
    "raydiar.utils.signal": {
        "Binarize": "raydiar.inference.binarization",
        "Peak": "raydiar.inference.binarization",
        "binarize": "raydiar.inference.binarization",
    },
}


class _Aliases(ModuleType):
    """A module of the table: its names are found on first use."""

    def __getattr__(self, name: str):
        home = ALIASES[self.__name__].get(name)
        if home is None:
            known = ", ".join(sorted(ALIASES[self.__name__])) or "modules only"
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} ({known})")
        found = getattr(importlib.import_module(home), name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return sorted(ALIASES[self.__name__])


class _Finder(MetaPathFinder, Loader):
    """Makes the modules of the table; last in line, so that a real module always wins."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in ALIASES:
            return None
        # All may hold others: raydiar.pipelines.utils does.
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return _Aliases(spec.name)

    def exec_module(self, module):
        module.__doc__ = f"pyannote.audio's names; see `raydiar.compat`: {', '.join(dir(module))}."
        module.__all__ = dir(module)


def install() -> None:
    """Let the paths of the table be imported; called once, by `import raydiar`."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
