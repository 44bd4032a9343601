"""Time and memory of the resolve step on a day of audio.

The recording is made of a real one of 16 minutes (community-1 embeddings), repeated: in each
repetition the voices are turned into those of another conversation and every embedding is jittered,
so that a day holds about twenty voices. Prints one JSON line.

    python benchmarks/resolve_long.py [--hours 24] [--clustering agglomerative|vbx|kmeans]
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from raydiar.clustering import (
    PLDA,
    AgglomerativeParameters,
    KMeansParameters,
    VBxParameters,
    resolve,
)
from raydiar.local_speakers import LocalSpeakers, pack_activity
from raydiar.windows import WindowGrid

SHARED = Path(__file__).resolve().parents[2] / "shared"


def read_case(folder: Path) -> LocalSpeakers:
    """Local speakers of a reference case; its decisions are hard, so posteriors are 0 or 1."""
    active = np.load(folder / "segmentations.npz")["segmentations"].astype(np.uint8)
    embeddings = np.load(folder / "raw_embeddings.npz")["embeddings"]
    owners = np.argwhere(active.any(axis=1)).astype(np.int32)
    grid = WindowGrid()
    return LocalSpeakers(
        num_samples=grid.window_samples + grid.step_samples * (len(active) - 1),
        activity=pack_activity(active),
        posteriors=active * np.uint8(255),
        embeddings=embeddings[owners[:, 0], owners[:, 1]],
        owners=owners,
    )


def repeat(
    local: LocalSpeakers, hours: float, num_conversations: int = 7, jitter: float = 0.3
) -> LocalSpeakers:
    """A recording of `hours`, each repetition of `local` being one of several conversations.

    Parameters
    ----------
    num_conversations : int
        Different rotations of the embeddings; each holds as many new voices as `local`.
    jitter : float
        Length of the noise added to each embedding, relative to the embedding.
    """
    rng = np.random.default_rng(0)
    dimension, grid = local.dimension, local.grid
    rotations = [
        np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
        for _ in range(num_conversations)
    ]
    num_windows = grid.num_windows(round(hours * 3600 * grid.sample_rate))
    repetitions = -(-num_windows // local.num_windows)
    scale = jitter * np.linalg.norm(local.embeddings, axis=1, keepdims=True) / np.sqrt(dimension)
    embeddings = np.empty((repetitions, *local.embeddings.shape), np.float32)
    for repetition in embeddings:
        noise = rng.standard_normal(local.embeddings.shape, np.float32) * scale
        repetition[:] = (local.embeddings + noise) @ rotations[rng.integers(num_conversations)]
    owners = np.tile(local.owners, (repetitions, 1))
    owners[:, 0] += np.repeat(
        np.arange(repetitions, dtype=np.int32) * local.num_windows, len(local.owners)
    )
    inside = owners[:, 0] < num_windows
    return LocalSpeakers(
        num_samples=grid.window_samples + grid.step_samples * (num_windows - 1),
        activity=np.tile(local.activity, (repetitions, 1))[:num_windows],
        posteriors=np.tile(local.posteriors, (repetitions, 1, 1))[:num_windows],
        embeddings=embeddings.reshape(-1, dimension)[inside],
        owners=owners[inside],
    )


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument(
        "--clustering", choices=["agglomerative", "vbx", "kmeans"], default="agglomerative"
    )
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of reference outputs")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    if not options.shared.is_dir():
        print(f"skipped: no reference outputs in {options.shared}")
        return

    case = read_case(options.shared / "reference" / "community-1" / "06_long_recording")
    local = repeat(case, options.hours)
    extra, bounds = {}, {}
    if options.clustering == "agglomerative":
        parameters = AgglomerativeParameters()
    elif options.clustering == "vbx":
        parameters, extra = VBxParameters(), {"plda": PLDA.load(options.shared / "models" / "plda")}
    else:
        parameters, bounds = KMeansParameters(), {"num_speakers": 20}
    before, start = peak_bytes(), time.perf_counter()
    diarization = resolve(local, parameters, **extra, **bounds)
    seconds = time.perf_counter() - start
    result = {
        "benchmark": "resolve_long",
        "clustering": options.clustering,
        "hours": options.hours,
        "windows": local.num_windows,
        "embeddings": len(local.embeddings),
        "levels": diarization.clustering,
        "speakers": diarization.num_speakers,
        "turns": len(diarization.turns),
        "seconds": round(seconds, 2),
        "input_bytes": local.nbytes,
        "peak_rss_bytes": peak_bytes(),
        "extra_rss_bytes": peak_bytes() - before,
    }
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
