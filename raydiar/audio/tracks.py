"""Which of several audio tracks are the recording.

Parties of a call, microphones of a studio: all of them are. The same talk in other languages, a
commentary, a description for the blind: only one is, and the user is told of the others.
"""

import re
from dataclasses import dataclass

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from raydiar.errors import AudioDecodeError

_ALTERNATES = (
    Disposition.dub
    | Disposition.comment
    | Disposition.lyrics
    | Disposition.karaoke
    | Disposition.visual_impaired
    | Disposition.clean_effects
    | Disposition.descriptions
)
_ALTERNATE_TITLES = re.compile(r"\b(comment|kommentar|descri|audio ?beschreib|dubb)", re.IGNORECASE)
_SAME_LENGTH = 0.05  # two tracks of one film differ by less


@dataclass(frozen=True)
class Choice:
    """The tracks that make up a recording.

    Attributes
    ----------
    indexes : tuple of int
        Of streams of the container; the order is that of `channel`, if there are several.
    warning : str or None
        What the user should know of it, without the name of the file.
    """

    indexes: tuple[int, ...]
    warning: str | None


def choose_tracks(container: InputContainer, label: str) -> Choice:
    """
    Raises
    ------
    AudioDecodeError
        If there is no audio track that can be decoded.
    """
    tracks = container.streams.audio
    if not tracks:
        found = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise AudioDecodeError(
            f"{label}: no audio track in this {container.format.name} file, only {found}. "
            "Give a file with sound."
        )
    usable = [track for track in tracks if track.codec_context is not None]
    if not usable:
        raise AudioDecodeError(
            f"{label}: FFmpeg has no decoder for its audio track. Convert it to another format."
        )
    unknown = [number for number, track in enumerate(tracks) if track.codec_context is None]
    missing = (
        f"FFmpeg has no decoder for its audio track {', '.join(map(str, unknown))} (counted from "
        "0), which was left out."
        if unknown
        else None
    )
    if len(usable) == 1:
        return Choice((usable[0].index,), missing)
    originals = [track for track in usable if not _is_alternate(track)] or usable
    if len(originals) > 1 and _are_dubs(originals):
        originals = [_default(originals)]
    others = [track for track in usable if track not in originals]
    told = []
    if len(originals) > 1:
        told.append(
            f"all of its {len(originals)} audio tracks were used ({_listed(originals)}); one alone "
            "is chosen by its place in this list, from 0, as `channel`."
        )
    if others:
        told.append(
            f"left out as other versions or a commentary of the same talk: {_listed(others)}; used "
            f"was: {_listed(originals)}."
        )
    warning = " ".join(filter(None, [*told, missing]))
    return Choice(tuple(track.index for track in originals), warning or None)


def _listed(tracks: list[AudioStream]) -> str:
    return "; ".join(map(_described, tracks))


def _default(tracks: list[AudioStream]) -> AudioStream:
    marked = (track for track in tracks if track.disposition & Disposition.default)
    return next(marked, tracks[0])


def _is_alternate(track: AudioStream) -> bool:
    title = track.metadata.get("title", "") + " " + track.metadata.get("handler_name", "")
    return bool(track.disposition & _ALTERNATES or _ALTERNATE_TITLES.search(title))


def _are_dubs(tracks: list[AudioStream]) -> bool:
    """Whether tracks are as long as each other and differ in language, all of them."""
    languages = [_language(track) for track in tracks]
    if None in languages or len(set(languages)) < 2:
        return False
    lengths = [seconds for track in tracks if (seconds := _seconds(track)) is not None]
    return not lengths or max(lengths) - min(lengths) <= _SAME_LENGTH * max(lengths)


def _language(track: AudioStream) -> str | None:
    language = track.metadata.get("language", "und").lower()
    return None if language in ("und", "unk", "mis", "mul", "zxx", "") else language[:2]


def _seconds(track: AudioStream) -> float | None:
    if track.duration:
        return float(track.duration * track.time_base)
    written = re.fullmatch(r"(\d+):(\d\d):([\d.]+)", track.metadata.get("DURATION", ""))
    if written is None:
        return None
    hours, minutes, seconds = written.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _described(track: AudioStream) -> str:
    seconds = _seconds(track)
    facts = (
        track.metadata.get("title"),
        track.metadata.get("language", "und").replace("und", ""),
        None if seconds is None else f"{seconds:.0f} s",
    )
    return ", ".join(filter(None, facts)) or "nameless"


def decoder_of(track: AudioStream) -> av.CodecContext:
    """What decodes a track: FFmpeg's choice, save where that is not up to real files.

    FFmpeg's own AMR decoder knows no pauses (DTX): it refuses their packets.
    """
    if track.codec_context.name not in ("amrnb", "amrwb"):
        return track.codec_context
    try:
        decoder = av.CodecContext.create(f"libopencore_{track.codec_context.name}", "r")
    except av.codec.codec.UnknownCodecError:
        return track.codec_context
    decoder.sample_rate = 8000 if track.codec_context.name == "amrnb" else 16000
    decoder.layout = "mono"
    return decoder
