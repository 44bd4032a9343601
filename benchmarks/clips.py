"""Clips of 30 s behind 30 ms of storage: how many times real time one decode slot makes of them.

    python benchmarks/clips.py [--clips N] [--json FILE]

Real conversation as mp3, in a web server in a process of its own that lets every answer wait for
30 ms. The stage that decodes reads them three ways: from this disk; over HTTP, fetched ahead; and
over HTTP one after another, as without fetching ahead.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import av  # noqa: E402
import pyarrow as pa  # noqa: E402
import soundfile  # noqa: E402
from engine import conversation  # noqa: E402
from peer import BENCH  # noqa: E402
from web_storage import serving  # noqa: E402

from raydiar.corpus.inputs.manifest import RECORDING_FIELDS  # noqa: E402
from raydiar.corpus.job import prefetch  # noqa: E402
from raydiar.corpus.job.decoding import Decode, DecodePortion  # noqa: E402
from raydiar.corpus.job.pack import Pack  # noqa: E402

SECONDS, DELAY = 30, 0.03


def make_clips(count: int) -> list[Path]:
    samples, rate = soundfile.read(conversation(600), dtype="int16")
    folder = BENCH / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:03d}.mp3"
        paths.append(path)
        if path.exists():
            continue
        start = number * (len(samples) - SECONDS * rate) // count
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mp3", rate=rate, bit_rate=64_000, layout="mono")
            clip = samples[None, start : start + SECONDS * rate]
            frame = av.AudioFrame.from_ndarray(clip.copy(), "s16", "mono")
            frame.sample_rate = rate
            file.mux([*stream.encode(frame), *stream.encode(None)])
    return paths


def serve(paths: list[str], port) -> None:
    with serving({f"/{Path(path).name}": Path(path).read_bytes() for path in paths}) as server:
        server.delay = DELAY
        port.send(server.url)
        time.sleep(3600)


def decode(uris: list[str]) -> float:
    """Times real time of one stage over all clips, as one portion."""
    rows = [dict.fromkeys(RECORDING_FIELDS.names) | {"uri": u, "recording_id": u} for u in uris]
    kind = pa.list_(pa.struct(list(RECORDING_FIELDS)))
    portion = pa.table({"portion": [0], "recordings": pa.array([rows], kind)})
    begun = time.perf_counter()
    packs = [Pack(table) for table in DecodePortion(Decode())(portion)]
    seconds = time.perf_counter() - begun
    assert all(error is None for pack in packs for error in pack.errors())
    return SECONDS * len(uris) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--quick", action="store_true", help="40 clips")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    paths = [str(path) for path in make_clips(40 if arguments.quick else arguments.clips)]
    port, theirs = get_context("spawn").Pipe()
    server = get_context("spawn").Process(target=serve, args=(paths, theirs), daemon=True)
    server.start()
    url = port.recv()
    uris = [f"{url}/{Path(path).name}" for path in paths]
    decode(paths[:2])  # starts the child
    speeds: dict[str, list[float]] = {}
    ahead = prefetch.AHEAD
    for _ in range(3):
        for name, sources, most in (
            ("from this disk", paths, ahead),
            ("fetched ahead", uris, ahead),
            ("one after another", uris, 0),
        ):
            prefetch.AHEAD = most
            if not most:
                prefetch.ThreadPoolExecutor = lambda n, **more: Pool(max(n, 1), **more)
            speeds.setdefault(name, []).append(decode(sources))
            prefetch.ThreadPoolExecutor = Pool
    for name, found in speeds.items():
        least, middle, most = sorted(found)
        print(f"  {name:18} {middle:6.0f} x real time ({least:.0f} to {most:.0f})")
    server.terminate()
    if arguments.json:
        result = {"benchmark": "clips", "clips": len(paths), "delay": DELAY, "speeds": speeds}
        arguments.json.write_text(json.dumps(result, indent=2))


Pool = prefetch.ThreadPoolExecutor

if __name__ == "__main__":
    main()
