"""Training and fine-tuning: from labelled recordings to a network that a pipeline takes.

- `manifest`, `index`, `check`: what to learn from, and what is wrong with it.
- `labels`, `sources`, `shards`, `loader`, `augmentation`: windows with their labels, by number.
- `tasks`, `speakers`, `losses`, `metrics`: what is learnt, and how wrong it still is.
- `config`, `recipe`, `parameters`: everything that decides a run.
- `module`, `run`, `folder`, `starting`: the loop, its checkpoints, and going on from them.
- `ray`: the same loop on Ray Train's workers; nothing else here knows Ray.
- `trainer`: the loop under the names of pyannote.audio, with loaders that a caller brings.
- `exporting`: raydiar, pyannote, ONNX.

Only this room knows Lightning. Importing it brings neither torch nor Lightning nor Ray.
"""

from importlib import import_module

_HOMES = {
    "Augmentation": "augmentation",
    "MixedWindows": "augmentation",
    "MultiLabelSegmentation": "tasks",
    "OverlappedSpeechDetection": "tasks",
    "Recipe": "recipe",
    "SimulatedWindows": "sources",
    "SpeakerDiarization": "tasks",
    "SpeakerEmbedding": "speakers",
    "Trainer": "trainer",
    "TrainingConfig": "config",
    "TrainingIndex": "index",
    "VoiceActivityDetection": "tasks",
    "build_index": "index",
    "check_manifest": "check",
    "export": "exporting",
    "start": "starting",
    "train": "run",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"raydiar.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'raydiar.training' has no attribute {name!r}")


def __dir__():
    return __all__
