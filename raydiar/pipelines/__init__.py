"""What people call: `Pipeline.from_pretrained` and the pipelines it returns."""

from importlib import import_module

_HOMES = {
    "Pipeline": "raydiar.pipelines.pipeline",
    "SpeakerDiarization": "raydiar.pipelines.speaker_diarization",
    "VoiceActivityDetection": "raydiar.pipelines.detection",
    "OverlappedSpeechDetection": "raydiar.pipelines.detection",
    "SpeakerChangeDetection": "raydiar.pipelines.detection",
    "MultiLabelSegmentation": "raydiar.pipelines.detection",
    "SpeakerEmbedding": "raydiar.pipelines.speaker_embedding",
    "PretrainedSpeakerEmbedding": "raydiar.pipelines.speaker_embedding",
    "RemoteDiarization": "raydiar.pipelines.remote",
    "ArtifactHook": "raydiar.pipelines.hooks",
    "Hooks": "raydiar.pipelines.hooks",
    "ProgressHook": "raydiar.pipelines.hooks",
    "TimingHook": "raydiar.pipelines.hooks",
}

__all__ = list(_HOMES)


_LEFT_OUT = {
    "SpeechSeparation": "its weights could not be tried: diarize, and cut out the turns instead",
}


def __getattr__(name: str):
    # Lazy, because the configuration beside these is read where torch is not wanted.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _LEFT_OUT:
        raise ImportError(f"{name} is left out of raydiar: {_LEFT_OUT[name]}")
    raise AttributeError(f"module 'raydiar.pipelines' has no attribute {name!r}")
