"""What requests may hold, with the field names of the REST interface.

A field that is null counts as one that is not there. Fields that nobody knows are refused: a
misspelt `numSpeakers` must not be ignored in silence, and neither what only the public service can
do.
"""

import re
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from raydiar.serving.results.voiceprint_text import MAX_TEXT

MAX_SPEAKERS = 100
MAX_VOICEPRINTS = 50
MAX_QUERIES = 100
MAX_HITS = 1000
MAX_ALL_HITS = 5000  # of all voiceprints of a request
MAX_HITS_WITH_TURNS = 200  # whose turns are read from datasets

_NOT_HERE = "this server has no speech-to-text model; leave it out"

Url = Annotated[str, StringConstraints(min_length=1, max_length=8192)]
NumSpeakers = Annotated[int | None, Field(ge=1, le=MAX_SPEAKERS)]
VoiceprintText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT)]


def _check_label(label: str) -> str:
    if not label.isprintable() or not label.strip():
        raise ValueError("a label has printable characters")
    if re.fullmatch(r"SPEAKER_\d+", label):
        raise ValueError("labels like SPEAKER_00 stand for speakers whom nobody knows")
    return label


Label = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(_check_label)
]


def _check_printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("a speaker's name has printable characters")
    return text


CorrectedLabel = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(_check_printable)
]


class Request(BaseModel):
    """Base of all requests."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=False
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        return {name: value for name, value in document.items() if value is not None}


class MediaRequest(Request):
    """Names an upload."""

    url: Url = Field(description="`media://` and a key of your own choice", examples=["media://a"])


class JobRequest(Request):
    """What all kinds of job have."""

    url: Url = Field(
        description="`media://key` of an upload, or an http(s) URL that this server can reach",
        examples=["media://meeting.wav"],
    )
    webhook: Url | None = Field(None, description="URL that is told when the job is over")
    webhook_status_only: bool | None = Field(None, description="Leave the output out of it")
    # the official client always names one, whatever it talks to
    model: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,100}$")] | None = Field(
        None,
        description="Taken for compatibility: the server has one pipeline, and tells",
        examples=["precision-3"],
    )

    def document(self) -> dict[str, Any]:
        """What the worker needs, with the field names of the interface and without nulls."""
        return self.model_dump(
            by_alias=True,
            exclude_none=True,
            exclude={"url", "webhook", "webhook_status_only", "model"},
        )


class Options(Request):
    """How a recording is diarized."""

    num_speakers: NumSpeakers = Field(None, description="When it is known")
    min_speakers: NumSpeakers = None
    max_speakers: NumSpeakers = None
    confidence: bool | None = Field(None, description="Confidence of each frame")
    turn_level_confidence: bool | None = Field(None, description="Confidence of each segment")
    exclusive: bool | None = Field(None, description="Also segments that do not overlap")
    speaker_voiceprints: bool | None = Field(None, description="Also a voiceprint of each speaker")

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        low, high = self.min_speakers or 1, self.max_speakers or MAX_SPEAKERS
        if low > high:
            raise ValueError(f"minSpeakers ({low}) is above maxSpeakers ({high})")
        if self.num_speakers is not None and not low <= self.num_speakers <= high:
            raise ValueError("numSpeakers is not between minSpeakers and maxSpeakers")
        return self


class DiarizeRequest(JobRequest, Options):
    transcription: bool | None = Field(None, description="Not available: must be false")
    transcription_config: Any = Field(None, description="Not available")

    @field_validator("transcription", "transcription_config")
    @classmethod
    def _no_transcription(cls, value: Any) -> None:
        if value:
            raise ValueError(_NOT_HERE)


class VoiceprintRequest(JobRequest):
    """At most 30 s of one person."""


class KnownVoice(Request):
    label: Label
    voiceprint: VoiceprintText = Field(description="`voiceprint` of a voiceprint job's output")


class Matching(Request):
    exclusive: bool | None = Field(None, description="Nobody is two speakers; true by default")
    threshold: Annotated[float, Field(strict=False)] | None = Field(
        None, ge=0, le=100, description="Least confidence of a match; 0 by default"
    )


class IdentifyRequest(JobRequest, Options):
    voiceprints: list[KnownVoice] = Field(min_length=1, max_length=MAX_VOICEPRINTS)
    matching: Matching | None = None

    @field_validator("voiceprints")
    @classmethod
    def _labels_differ(cls, voiceprints: list[KnownVoice]) -> list[KnownVoice]:
        if len({voice.label for voice in voiceprints}) < len(voiceprints):
            raise ValueError("one voiceprint per label")
        return voiceprints


class CorrectedTurn(Request):
    start: Annotated[float, Field(strict=False, ge=0, le=200_000, allow_inf_nan=False)]
    end: Annotated[float, Field(strict=False, ge=0, le=200_000, allow_inf_nan=False)]
    speaker: CorrectedLabel

    @model_validator(mode="after")
    def _takes_time(self) -> Self:
        if self.end <= self.start:
            raise ValueError("a turn ends after its start")
        return self


class Corrections(Request):
    """All turns of a recording, as somebody wants them."""

    base: int = Field(ge=0, description="Version that was changed; 0 is the machine's")
    turns: list[CorrectedTurn] = Field(max_length=200_000)
    names: dict[CorrectedLabel, CorrectedLabel] | None = Field(
        None, max_length=1000, description="Of speakers, by label"
    )

    def document(self) -> dict[str, Any]:
        """What is kept."""
        return {
            "turns": [
                {"start": round(t.start, 3), "end": round(t.end, 3), "speaker": t.speaker}
                for t in sorted(self.turns, key=lambda t: (t.start, t.end))
            ],
            "names": self.names or {},
        }


class SpeakerOfJob(Request):
    job_id: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    speaker: Annotated[str, StringConstraints(min_length=1, max_length=100)]


class SearchRequest(Request):
    """One of `voiceprint`, `voiceprints` and `speakerVoiceprint`."""

    voiceprint: VoiceprintText | None = None
    voiceprints: list[VoiceprintText] | None = Field(None, min_length=1, max_length=MAX_QUERIES)
    speaker_voiceprint: SpeakerOfJob | None = Field(
        None, description="A speaker of a job that asked for `speakerVoiceprints`"
    )
    k: int | None = Field(None, ge=1, le=MAX_HITS, description="Matches of each; 10 by default")
    include_turns: bool | None = Field(None, description="Where each match speaks")
    where: dict[str, str | bool | int | float | list[str | bool | int | float]] | None = Field(
        None, max_length=20, description="Columns of the index and values, or lists of such"
    )

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        given = (self.voiceprint, self.voiceprints, self.speaker_voiceprint)
        if sum(query is not None for query in given) != 1:
            raise ValueError("give one of voiceprint, voiceprints and speakerVoiceprint")
        return self
