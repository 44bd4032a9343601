"""Exceptions a user can meet, one per cause; every message names the file and the way out."""

from raydiar.naming import without_secrets


class RaydiarError(Exception):
    """Base class of every error raised on purpose by raydiar.

    Messages are read by others, and kept: URLs in them lose user, password and query.
    """

    def __init__(self, *args):
        super().__init__(*(without_secrets(a) if isinstance(a, str) else a for a in args))


class AudioDecodeError(RaydiarError):
    """The bytes are not audio that FFmpeg can decode, or they are damaged."""


class AudioWarning(UserWarning):
    """Something about a recording that its user should know, though it was decoded."""


class EmptyAudio(AudioDecodeError):
    """The file decodes, but to not a single sample."""


class InvalidSamples(RaydiarError):
    """A waveform holds NaN or infinity, or has the wrong shape."""


class RecordingTooLong(RaydiarError):
    """A recording longer than the limit of one row (24 h)."""


class AudioNotFound(RaydiarError, FileNotFoundError):
    """No object at this URI."""


class StorageDenied(RaydiarError, PermissionError):
    """The storage refused the credentials (401, 403): the operator's to put right."""


class StorageUnavailable(RaydiarError):
    """The storage did not answer (network, 429, 5xx): worth another try."""


class MediaKeyError(RaydiarError, ValueError):
    """A `media://` key that no upload can have."""


class MediaTooLarge(RaydiarError):
    """More bytes than an upload or a fetched recording may have."""


class SignatureRefused(RaydiarError):
    """A signed URL that is expired, forged, or meant for something else."""


class UrlRefused(RaydiarError, ValueError):
    """A URL that this server must not open for a client; the client's to put right."""


class FetchFailed(RaydiarError):
    """A URL of a client did not give its recording.

    Attributes
    ----------
    retryable : bool
        Whether the same URL may give it another time.
    """

    def __init__(self, message: str, retryable: bool):
        super().__init__(message, retryable)  # both, or it could not be pickled
        self.retryable = retryable

    def __str__(self) -> str:
        return self.args[0]


class TooManyRedirects(FetchFailed):
    """A URL of a client leads from one to the next without end."""


class DeviceFailed(RaydiarError):
    """What infers failed, a GPU most likely: its process is replaced, and it is tried again."""


class DecoderCrashed(RaydiarError):
    """The child process that decodes died on this recording."""


class DecoderKilled(RaydiarError):
    """The child process that decodes was killed from outside, as the kernel does when memory
    is short: the machine's failure, and worth another try when less runs beside it."""


class DecoderStalled(RaydiarError):
    """The child process that decodes did not finish this recording in time."""


class ScoresNotFinite(RaydiarError):
    """The networks gave NaN or infinity for a recording, on a device that works."""


class ShardError(RaydiarError):
    """A tar or Parquet file of recordings that cannot be read to its end."""


class CheckpointError(RaydiarError):
    """A checkpoint is unsafe, damaged, or not for any known network."""


class WeightsNotFound(RaydiarError):
    """No weights at this URI, or not the bytes that its SHA-256 promises."""


class ConfigError(RaydiarError, ValueError):
    """A pipeline configuration or parameter that makes no sense."""


class ForkedProcess(RaydiarError, RuntimeError):
    """Networks are asked to compute in a fork of the process that loaded them, where they hang."""


class ManifestError(RaydiarError, ValueError):
    """A manifest that cannot be used: missing columns, duplicates, wrong types."""


class OutputError(RaydiarError):
    """The output of a job cannot be used: locked, not writable, or made by another pipeline."""


class EvaluationError(RaydiarError, ValueError):
    """References or hypotheses that cannot be scored, or not against each other."""


class JobFailed(RaydiarError):
    """A corpus job stopped early; the message says why and how to go on."""


class VoiceprintIndexError(RaydiarError):
    """A voiceprint index is missing, damaged, or made with another embedding."""


class VoiceprintIndexConflict(VoiceprintIndexError):
    """Another writer changed the voiceprint index first; nothing was written."""


class VoiceprintNotFound(RaydiarError, LookupError):
    """No voiceprint of that recording, speaker or name, or no voice in the clip."""


class VoiceprintTextError(RaydiarError, ValueError):
    """A text that is no voiceprint, or one of another embedding."""


class EnrolmentError(RaydiarError, ValueError):
    """A clip that is not good enough to know a person by; the message says why."""


class SimulationError(RaydiarError, ValueError):
    """No conversation can be made of these voices, turn structures, rooms or noises."""


class TrainingError(RaydiarError):
    """Training cannot start or go on; the message says why and what to change."""


class DatabaseUnavailable(RaydiarError):
    """The database does not answer, or not in time: worth another try."""


class QueueFull(RaydiarError):
    """The queue holds all it may; a client comes back after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.args[0]


class LeaseLost(RaydiarError):
    """A worker was silent for too long: its job is another's now, and its result is not wanted."""


class JobCanceled(RaydiarError):
    """The client canceled the job that a worker is busy with."""


class ServerFailed(RaydiarError):
    """A part of a server did not start; the message says which, and why."""


class WorkerUnhealthy(RaydiarError):
    """A worker of a server that another should replace."""


class InvalidCursor(RaydiarError, ValueError):
    """A cursor that no page of a list came with."""


class RemoteDenied(RaydiarError, PermissionError):
    """A diarization service does not take the API key, or wants to be paid."""


class RemoteRefused(RaydiarError, ValueError):
    """A diarization service does not take a request as it is; the message says what it told."""


class RemoteUnavailable(RaydiarError):
    """A diarization service does not answer, even asked several times."""


class RemoteJobFailed(RaydiarError):
    """A diarization service gave no result for a recording."""
