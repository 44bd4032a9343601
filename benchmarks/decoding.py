"""Speed of decoding, format by format and method by method, and the memory of a day of audio.

Every method turns the same files into mono 16 kHz int16 on one thread; the table says how many
times faster than real time, by CPU time, best of a few runs taken in turn. Methods:

  raydiar      raydiar.audio.decode
  child        the same in an IsolatedDecoder (wall time: the work is elsewhere)
  packets      PyAV's usual loop: a resampler call and an array per packet
  graph        all of it inside FFmpeg (`amovie`): what no Python loop at all would give
  libsndfile   soundfile and soxr, where they are installed and the format is theirs

    python benchmarks/decoding.py [--minutes 10] [--speech FILE] [--json FILE]
    python benchmarks/decoding.py --memory 24 [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.filter import Graph

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.audio.isolation import IsolatedDecoder

try:
    import soundfile
    import soxr
except ImportError:
    soundfile = None

SPEECH = Path(__file__).resolve().parents[2] / "shared" / "audio" / "ami-clips" / "sample.flac"

# name: (sample rate, codec, layout, bit rate)
FORMATS = {
    "16k.wav": (16000, "pcm_s16le", "mono", None),
    "44k-stereo.wav": (44100, "pcm_s16le", "stereo", None),
    "8k-alaw.wav": (8000, "pcm_alaw", "mono", None),
    "16k.flac": (16000, "flac", "mono", None),
    "44k-stereo.flac": (44100, "flac", "stereo", None),
    "16k-32kbit.mp3": (16000, "mp3", "mono", 32000),
    "44k-128kbit.mp3": (44100, "mp3", "mono", 128000),
    "44k-stereo-128kbit.mp3": (44100, "mp3", "stereo", 128000),
    "44k-96kbit.m4a": (44100, "aac", "mono", 96000),
    "48k-32kbit.ogg": (48000, "libopus", "mono", 32000),
    "48k-32kbit.webm": (48000, "libopus", "mono", 32000),
}


def write(path: Path, samples: np.ndarray, rate: int, codec: str, layout: str, bit_rate) -> None:
    """Encode (num_samples,) int16 at 16 kHz into any format, resampled by FFmpeg."""
    resampler = av.AudioResampler("s16", layout, rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if bit_rate:
            stream.codec_context.bit_rate = bit_rate
        for start in range(0, len(samples), SAMPLE_RATE):
            block = np.ascontiguousarray(samples[None, start : start + SAMPLE_RATE])
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.sample_rate = SAMPLE_RATE
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))


# -- methods ---------------------------------------------------------------------------------------


def by_packets(path: Path) -> np.ndarray:
    resampler, blocks = av.AudioResampler("s16", "mono", SAMPLE_RATE), []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            blocks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        blocks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    return np.concatenate(blocks)


def by_graph(path: Path) -> np.ndarray:
    graph = Graph()
    graph.threads = 1
    steps = [
        ("amovie", {"filename": str(path), "dec_threads": "1"}),
        ("aformat", {"sample_rates": "16000", "sample_fmts": "s16", "channel_layouts": "mono"}),
        ("asetnsamples", {"n": "64000", "p": "0"}),
        ("abuffersink", {}),
    ]
    graph.link_nodes(*(graph.add(name, **options) for name, options in steps)).configure()
    blocks = []
    while True:
        try:
            blocks.append(graph.pull().to_ndarray()[0])
        except EOFError:
            return np.concatenate(blocks)


def by_libsndfile(path: Path) -> np.ndarray | None:
    if soundfile is None or path.suffix in (".m4a", ".webm"):
        return None
    blocks = []
    with _quiet(), soundfile.SoundFile(path) as file:
        resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE, 1, dtype="float32")
        size = 10 * file.samplerate
        while True:
            block = file.read(size, dtype="float32", always_2d=True)
            last = len(block) < size
            blocks.append(resampler.resample_chunk(block.mean(axis=1), last=last))
            if last:
                break
    return np.clip(np.rint(np.concatenate(blocks) * 32768), -32768, 32767).astype(np.int16)


@contextmanager
def _quiet():
    """Without the lines that libsndfile's mp3 decoder writes to stderr for every odd frame."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def measure_speed(speech: Path, minutes: float, repeats: int) -> list[dict]:
    samples = decode(speech)
    samples = np.tile(samples, int(minutes * 60 * SAMPLE_RATE / len(samples)) + 1)
    seconds = minutes * 60
    samples = samples[: int(seconds * SAMPLE_RATE)]
    rows = []
    with tempfile.TemporaryDirectory() as folder, IsolatedDecoder() as child:
        methods = {
            "raydiar": (decode, time.process_time),
            "child": (child.decode, time.perf_counter),
            "packets": (by_packets, time.process_time),
            "graph": (by_graph, time.process_time),
            "libsndfile": (by_libsndfile, time.process_time),
        }
        print(f"{'times real time':24}" + "".join(f"{name:>12}" for name in methods))
        for name, how in FORMATS.items():
            path = Path(folder) / name
            write(path, samples, *how)
            best = {}
            for _ in range(repeats):
                for method, (call, clock) in methods.items():
                    begun = clock()
                    if call(path) is not None:
                        best[method] = max(best.get(method, 0.0), seconds / (clock() - begun))
            cells = (f"{best[m]:12.0f}" if m in best else f"{'-':>12}" for m in methods)
            print(f"{name:24}" + "".join(cells), flush=True)
            rows.append({"file": name, "times_real_time": best})
            path.unlink()
    return rows


# -- memory ----------------------------------------------------------------------------------------


def write_long(path: Path, samples: np.ndarray, hours: float) -> None:
    """Hours of audio without encoding hours of it: the packets of some minutes again and again."""
    kind = {".mp3": ("mp3", 16000, 32000), ".webm": ("libopus", 48000, 24000)}[path.suffix]
    codec, rate, bit_rate = kind
    short = path.with_stem("short")
    write(short, samples, rate, codec, "mono", bit_rate)
    # a webm as browsers record it: without a duration
    options = {".mp3": {"write_xing": "0"}, ".webm": {"live": "1"}}[path.suffix]
    with av.open(str(short)) as source, av.open(str(path), "w", options=options) as target:
        track = source.streams.audio[0]
        stream = target.add_stream_from_template(track)
        packets = [packet for packet in source.demux(track) if packet.dts is not None]
        content = [(bytes(packet), packet.pts, packet.duration) for packet in packets]
        step = content[-1][1] - content[0][1] + content[-1][2]
        for turn in range(int(np.ceil(hours * 3600 / float(step * track.time_base)))):
            for data, pts, duration in content:
                packet = av.Packet(data)
                packet.pts = packet.dts = pts - content[0][1] + turn * step
                packet.duration, packet.time_base, packet.stream = duration, track.time_base, stream
                target.mux(packet)


PEAK = """
import sys, time
from raydiar.audio import decode
from raydiar.audio.isolation import IsolatedDecoder

def memory(pid, kind):
    with open(f"/proc/{pid}/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith(kind))

path, mode, duration = sys.argv[1], sys.argv[2], float(sys.argv[3])
child = IsolatedDecoder()
call = decode if mode == "process" else child.decode
call(path, duration=60.0)
child.probe(path)
parent_before, child_before = memory("self", "VmHWM"), memory(child.pid, "RssAnon")
begun = time.perf_counter()
samples = call(path, duration=duration)
wall = time.perf_counter() - begun
samples.max()  # maps what the child wrote into this process, where its peak counts it
grown = memory("self", "VmHWM") - parent_before + memory(child.pid, "RssAnon") - child_before
print(len(samples), samples.nbytes, grown, wall)
"""


def measure_memory(speech: Path, hours: float) -> list[dict]:
    """Peak above the idle process (and what its child keeps), as a multiple of the PCM."""
    samples = np.tile(decode(speech), 10)[: 300 * SAMPLE_RATE]
    rows = []
    print(f"{'file':10}{'where':>10}{'hours':>8}{'PCM MB':>9}{'peak/PCM':>10}{'x real time':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("day.mp3", "day.webm"):
            path = Path(folder) / name
            write_long(path, samples, hours)
            for mode in ("process", "child"):
                command = [sys.executable, "-c", PEAK, str(path), mode, str(hours * 3600)]
                result = subprocess.run(command, capture_output=True, text=True, check=True)
                length, num_bytes, grown, wall = map(float, result.stdout.split())
                row = {
                    "file": name,
                    "where": mode,
                    "hours": length / SAMPLE_RATE / 3600,
                    "pcm_bytes": num_bytes,
                    "peak_over_pcm": grown / num_bytes,
                    "times_real_time": length / SAMPLE_RATE / wall,
                }
                rows.append(row)
                print(
                    f"{name:10}{mode:>10}{row['hours']:8.2f}{num_bytes / 1e6:9.0f}"
                    f"{row['peak_over_pcm']:10.3f}{row['times_real_time']:13.0f}",
                    flush=True,
                )
            path.unlink()
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, default=SPEECH, help="recording to make files of")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=float, metavar="HOURS", help="measure memory instead")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.speech.exists():
        parser.error(f"{arguments.speech} is not there; give a recording of speech with --speech")
    if arguments.memory:
        measure = partial(measure_memory, arguments.speech, arguments.memory)
    else:
        measure = partial(
            measure_speed, arguments.speech, arguments.minutes, max(1, arguments.repeats)
        )
    rows = measure()
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
