"""What a network can learn, under pyannote.audio's names; see `raydiar.training`."""

from raydiar.training.speakers import (
    SpeakerEmbedding,
    SupervisedRepresentationLearningWithArcFace,
)
from raydiar.training.tasks import (
    MultiLabelSegmentation,
    OverlappedSpeechDetection,
    SpeakerDiarization,
    Task,
    VoiceActivityDetection,
)

__all__ = [
    "MultiLabelSegmentation",
    "OverlappedSpeechDetection",
    "SpeakerDiarization",
    "SpeakerEmbedding",
    "SupervisedRepresentationLearningWithArcFace",
    "Task",
    "VoiceActivityDetection",
]
