"""Linking of large corpora of made-up voices, with defaults: quality, time and memory by size.

    python benchmarks/linking_scale.py [--voices 10000 100000] [--seed 3] [--fit]

The spreads of the voices are chosen (`tests/large_corpus.py`); `--fit` shows them and real ones
side by side. Seeds 0 to 2 were for choosing, results are told of 3 and above. Voices drowned in
noise are nobody's, and are counted apart; each size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from large_corpus import Corpus, make_corpus  # noqa: E402

from raydiar.evaluation.linking import linking_scores  # noqa: E402
from raydiar.voiceprints.linker import Linker  # noqa: E402
from raydiar.voiceprints.linking import LinkingParameters  # noqa: E402

SHARED = ROOT.parent / "shared"
SIZES = ((1, 1), (2, 2), (3, 4), (5, 9), (10, 99), (100, 10**9))


def linked(num_voices: int, seed: int, within: bool) -> dict:
    corpus = make_corpus(num_voices, seed)
    memory = _peak()
    parameters = LinkingParameters()
    begun = time.monotonic()
    linker = Linker(
        corpus.vectors,
        corpus.recordings,
        corpus.seconds,
        np.zeros(len(corpus.people), bool),
        parameters,
        within=corpus.feeds if within else None,
        report=lambda line: print(f"{time.monotonic() - begun:7.1f} s  {line}", flush=True),
    )
    people = linker.people()
    seconds = time.monotonic() - begun
    clean = ~corpus.noisy
    sizes = np.bincount(corpus.people[clean], minlength=corpus.people.max() + 1)[corpus.people]
    by_size = {
        f"people of {low} to {high}": asdict(linking_scores(people[chosen], corpus.people[chosen]))
        for low, high in SIZES
        if (chosen := clean & (sizes >= low) & (sizes <= high)).any()
    }
    copies = linker.originals != np.arange(len(people))
    together = np.bincount(people)[people] > 1
    return {
        "voices": len(people),
        "seed": seed,
        "within feeds first": within,
        "people": int(corpus.people.max()) + 1,
        "most recordings of one": int(np.bincount(corpus.people).max()),
        "threshold of two voices": linker.threshold,
        "evidence": asdict(linker.evidence),
        "seconds": seconds,
        "GB before": memory,
        "GB at most": _peak(),
        "neighbours found": linker.recall,
        "all": asdict(linking_scores(people[clean], corpus.people[clean])),
        **by_size,
        "copies": int(corpus.copies.sum()),
        "copies found": int(copies.sum()),
        "noisy voices put with others": float(together[corpus.noisy].mean()),
        "noisy voices flagged": float(linker.hubs[corpus.noisy].mean()),
        "others flagged": float(linker.hubs[clean].mean()),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# -- the fit -------------------------------------------------------------------------------------


def spreads(corpus: Corpus, seed: int = 0) -> dict[str, list[float]]:
    """Mean, deviation and quantiles of cosines of strangers, and of one person's recordings."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(corpus.people), size=(2, 400_000))
    chosen = corpus.people[first] != corpus.people[second]
    strangers = np.einsum("pd,pd->p", corpus.vectors[first[chosen]], corpus.vectors[second[chosen]])
    kept = np.flatnonzero(~corpus.copies & ~corpus.noisy)
    kept = rng.permutation(kept)
    kept = kept[np.argsort(corpus.people[kept], kind="stable")]
    same = np.flatnonzero(
        (np.diff(corpus.people[kept]) == 0) & (np.diff(corpus.recordings[kept]) != 0)
    )
    one = np.einsum("pd,pd->p", corpus.vectors[kept[same]], corpus.vectors[kept[same + 1]])
    return {
        name: [x.mean(), x.std(), *np.quantile(x, (0.001, 0.01, 0.5, 0.99, 0.999))]
        for name, x in (("strangers", strangers), ("one person", one))
    }


def real_voices() -> Corpus:
    """Halves of readers' utterances, each through a channel of its own."""
    import torch

    from raydiar import audio
    from raydiar.pipelines.speaker_embedding import PretrainedSpeakerEmbedding
    from raydiar.simulation.room import Room
    from raydiar.training.augmentation import Augmentation

    def mono(file: Path) -> np.ndarray:
        return audio.decode(str(file), channel=0).astype(np.float32)

    channel = Augmentation(
        rooms=[Room([mono(file)]) for file in sorted((SHARED / "noise" / "rir").iterdir())],
        noises=[
            audio.decode(str(file)) for file in sorted((SHARED / "noise" / "background").iterdir())
        ],
        room_probability=0.6,
        noise_probability=0.7,
        telephone_probability=0.2,
        codec_probability=0.3,
        snr=(5.0, 25.0),
    )
    embed = PretrainedSpeakerEmbedding()
    vectors, people, recordings, seconds = [], [], [], []
    for file in sorted((SHARED / "audio" / "librispeech").glob("*/*.flac")):
        samples = audio.decode(str(file)).astype(np.float32) / 32768
        for half in np.array_split(samples, 2):
            number = len(vectors)
            heard = channel(torch.from_numpy(half)[None], [number])
            vectors.append(embed(heard[:, None])[0])
            people.append(int(file.parent.name))
            recordings.append(number)
            seconds.append(len(half) / audio.SAMPLE_RATE)
    vectors = np.stack(vectors)
    number = len(vectors)
    people = np.unique(people, return_inverse=True)[1]
    return Corpus(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        people,
        np.array(recordings),
        np.array(seconds),
        *np.zeros((2, number), bool),
        people,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--voices", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--within", action="store_true", help="link within feeds first")
    parser.add_argument("--fit", action="store_true", help="show the spreads of real voices")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    if arguments.fit:
        if not (SHARED / "audio" / "librispeech").is_dir():
            sys.exit("no ../shared/audio/librispeech beside this checkout: nothing to fit")
        columns = "mean, deviation, .1 %, 1 %, 50 %, 99 %, 99.9 %"
        for name, corpus in (
            ("real", real_voices()),
            ("made up", make_corpus(20_000, arguments.seed)),
        ):
            for kind, numbers in spreads(corpus).items():
                print(f"{name:8} {kind:11} {columns}:", *(f"{x:.3f}" for x in numbers))
        return
    for num_voices in arguments.voices:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result = pool.submit(linked, num_voices, arguments.seed, arguments.within).result()
        results.append(result)
        print(json.dumps(result, indent=1), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
