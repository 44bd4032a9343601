"""Damaged, truncated and contradictory audio files without end, and what decoding may make of them.

A file ends in samples or in one of our errors, within its time and its memory.
"""

import io
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from audio_files import RATE, speech_like, write

from raydiar.audio.isolation import IsolatedDecoder
from raydiar.errors import DecoderStalled, RaydiarError

SECONDS = 3.0
TIME_LIMIT = 20.0  # s; a decode takes milliseconds
MEMORY_SLACK = 64 * 2**20  # of FFmpeg and the allocator, besides 1.2 times the PCM

# name: rate, codec and how to write it
SEEDS = {
    "s16.wav": (16000, "pcm_s16le", {}),
    "f32.wav": (16000, "pcm_f32le", {}),
    "stereo.wav": (44100, "pcm_s16le", {"layout": "stereo"}),
    "adpcm.wav": (16000, "adpcm_ms", {}),
    "rf64.wav": (16000, "pcm_s16le", {"options": {"rf64": "always"}}),
    "a.w64": (16000, "pcm_s16le", {}),
    "a.aiff": (16000, "pcm_s16be", {}),
    "a.au": (16000, "pcm_s16be", {}),
    "a.caf": (16000, "pcm_s16le", {}),
    "a.flac": (16000, "flac", {}),
    "a.mp3": (44100, "mp3", {"bit_rate": 64000}),
    "a.m4a": (44100, "aac", {"bit_rate": 64000}),
    "a.aac": (44100, "aac", {"bit_rate": 64000}),
    "opus.ogg": (48000, "libopus", {"bit_rate": 32000}),
    "vorbis.ogg": (44100, "vorbis", {"layout": "stereo"}),
    "flac.ogg": (16000, "flac", {}),
    "a.webm": (48000, "libopus", {"bit_rate": 32000}),
    "video.mkv": (48000, "aac", {"video": "mpeg4"}),
    "video.mp4": (44100, "aac", {"video": "mpeg4"}),
    "video.avi": (44100, "mp3", {"video": "mpeg4"}),
    "video.ts": (48000, "mp2", {"video": "mpeg2video"}),
    "a.flv": (44100, "aac", {}),
    "a.mpg": (48000, "mp2", {}),
    "a.amr": (8000, "libopencore_amrnb", {}),
    "a.wma": (44100, "wmav2", {"bit_rate": 64000}),
}
# Time in these is the count of samples: no timestamp can ask for silence.
COUNTED = ("s16.wav", "stereo.wav", "a.w64", "a.aiff", "a.au", "a.flac", "a.mp3", "a.aac", "a.amr")


def seeds(folder: Path) -> dict[str, bytes]:
    signal = speech_like(SECONDS)
    return {
        name: write(folder / name, signal, rate, codec, **how).read_bytes()
        for name, (rate, codec, how) in SEEDS.items()
    }


def mutated(rng: random.Random, content: bytes, others: list[bytes]) -> tuple[str, bytes]:
    """A file that somebody might have, and what was done to it."""
    data = bytearray(content)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind, change = rng.choice(_MUTATIONS)
        done.append(kind)
        data = bytearray(change(rng, data, others))
    return "+".join(done), bytes(data)


def _truncate(rng, data, others):
    return data[: rng.randrange(len(data) + 1)]


def _header_field(rng, data, others):
    place, width = _header_place(rng, data), rng.choice((1, 2, 4, 4, 8))
    value = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**64 - 1, len(data), 0x7FFF0000))
    order = rng.choice(("little", "big"))
    data[place : place + width] = (value % 256**width).to_bytes(width, order)
    return data


def _header_bytes(rng, data, others):
    for _ in range(rng.randint(1, 8)):
        if data:
            data[min(_header_place(rng, data), len(data) - 1)] = rng.randrange(256)
    return data


def _header_place(rng, data):
    return int(min(len(data), 600) * rng.random())


def _bytes(rng, data, others):
    for _ in range(rng.randint(1, 60)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _lost(rng, data, others):
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.randint(1, 20000) :]


def _zeroed(rng, data, others):
    first = rng.randrange(len(data) + 1)
    stop = min(len(data), first + rng.randint(1, 20000))
    data[first:stop] = bytes(stop - first)
    return data


def _inserted(rng, data, others):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 5000)) + data[place:]


def _appended(rng, data, others):
    return data + rng.choice((bytes(2**20), rng.randbytes(9000), b"ID3\4" + bytes(500)))


def _joined(rng, data, others):
    return data + rng.choice(others)


def _repeated(rng, data, others):
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first : first + 9000] + data[first:]


_MUTATIONS = [
    ("truncate", _truncate),
    ("header field", _header_field),
    ("header field", _header_field),
    ("header bytes", _header_bytes),
    ("bytes", _bytes),
    ("lost", _lost),
    ("zeroed", _zeroed),
    ("inserted", _inserted),
    ("appended", _appended),
    ("joined", _joined),
    ("repeated", _repeated),
]


@dataclass
class Report:
    """What became of the files.

    Attributes
    ----------
    outcomes : Counter
        "samples", or the name of an error.
    faults : list of (str, bytes)
        What must not be, and the file.
    slowest : float, seconds
    """

    num_files: int = 0
    outcomes: Counter = field(default_factory=Counter)
    faults: list[tuple[str, bytes]] = field(default_factory=list)
    slowest: float = 0.0


def fuzz(folder: Path, seconds: float, seed: int, most: float = float("inf")) -> Report:
    """Decode mutated files for some time, as many as come, or until there were `most`."""
    rng, report = random.Random(seed), Report()
    files = seeds(folder)
    others = list(files.values())
    deadline = time.monotonic() + seconds
    with IsolatedDecoder(time_limit=TIME_LIMIT) as decoder:
        decoder.decode(io.BytesIO(others[0]), warnings=[])
        while time.monotonic() < deadline and report.num_files < most:
            name = rng.choice(list(files))
            kind, content = mutated(rng, files[name], others)
            excerpt = rng.choice(({}, {}, {"start": 1.3, "duration": 1.0}, {"channel": 0}))
            _try(report, decoder, name, kind, content, excerpt)
    return report


def _try(report, decoder, name, kind, content, excerpt) -> None:
    label = f"{name}, {kind}, {excerpt}"
    told: list[str] = []
    pid, before = decoder.pid, _reset_peak(decoder.pid)
    begun = time.monotonic()
    num_samples = 0
    try:
        samples = decoder.decode(io.BytesIO(content), warnings=told, **excerpt)
    except DecoderStalled as error:
        report.faults.append((f"{label}: {error}", content))
        outcome = "DecoderStalled"
    except RaydiarError as error:
        outcome = type(error).__name__
    except Exception as error:
        report.faults.append((f"{label}: {type(error).__name__}: {error}", content))
        outcome = "fault"
    else:
        outcome, num_samples = "samples", len(samples)
        report.faults += [(f"{label}: {fault}", content) for fault in _wrong(name, kind, samples)]
    report.num_files += 1
    report.outcomes[outcome] += 1
    report.slowest = max(report.slowest, time.monotonic() - begun)
    if before is not None and decoder.pid == pid:
        grown = _memory(pid, "VmHWM") - before
        if grown > 1.2 * 2 * num_samples + MEMORY_SLACK:
            report.faults.append((f"{label}: {grown / 1e6:.0f} MB for {num_samples}", content))


def _wrong(name: str, kind: str, samples: np.ndarray) -> list[str]:
    longest = SECONDS * (1 + len(re.findall("joined|repeated|appended|inserted", kind)) * 30)
    if name in COUNTED and "header" not in kind and len(samples) > (longest + 1) * RATE:
        return [f"{len(samples) / RATE:.0f} s came out"]
    return []


def _reset_peak(pid: int) -> int | None:
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        return _memory(pid, "VmHWM")
    except OSError:
        return None


def _memory(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", text)[1])
