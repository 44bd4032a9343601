"""Made-up voices of a large corpus, whose people are heard unequally often.

The spreads are chosen, not fitted: cosines of one person .59 +- .10, of strangers .04 +- .11. Real
ones spread wider: 16 readers through rooms, noise, telephones and codecs gave .53 +- .22 and
.09 +- .12. `benchmarks/linking_scale.py --fit` prints both side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

DIMENSION = 192


@dataclass(frozen=True)
class Spread:
    """
    Attributes
    ----------
    cohesion : float
        Mean cosine of two long recordings of one person.
    between, within : float
        Dimensions by which the variances of people, and of their recordings, fall to 1/e.
    mean : float
        Length of what all people have in common, in that of their spread.
    freedom : float
        Degrees of freedom of recordings' quality: the fewer, the more are far off.
    half : float, s
        Speech of which a voiceprint is half as reliable as of very much.
    """

    cohesion: float = 0.60
    between: float = 25.0
    within: float = 30.0
    mean: float = 0.25
    freedom: float = 12.0
    half: float = 1.0


@dataclass(frozen=True)
class Mixture:
    """What a corpus is made of.

    Attributes
    ----------
    exponent : float
        Of the number of people by their recordings (Zipf).
    largest : int
        Recordings of a person at most; a twentieth of the voices at most, too.
    split : float
        Share of voices that diarization takes for two.
    reposted : float
        Share of recordings that are there again, up to `copies` times.
    noisy : float
        Share of voices drowned in one of `num_noises` noises or jingles, which no recording's
        people are.
    """

    exponent: float = 2.0
    largest: int = 10_000
    split: float = 0.02
    reposted: float = 0.01
    copies: int = 60
    noisy: float = 0.005
    num_noises: int = 5


@dataclass(frozen=True)
class Corpus:
    """
    Attributes
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors.
    people : (num_voices,) int64
        Who speaks.
    recordings : (num_voices,) int64
        In which.
    seconds : (num_voices,) float64
    copies, noisy : (num_voices,) bool
        Of a recording that is there already; drowned in a noise.
    feeds : (num_voices,) int64
    """

    vectors: np.ndarray = field(repr=False)
    people: np.ndarray = field(repr=False)
    recordings: np.ndarray = field(repr=False)
    seconds: np.ndarray = field(repr=False)
    copies: np.ndarray = field(repr=False)
    noisy: np.ndarray = field(repr=False)
    feeds: np.ndarray = field(repr=False)


def make_corpus(
    num_voices: int,
    seed: int = 0,
    spread: Spread | None = None,
    mixture: Mixture | None = None,
) -> Corpus:
    """Make about so many voices; the same seed gives the same."""
    spread, mixture = spread or Spread(), mixture or Mixture()
    rng = np.random.default_rng(seed)
    people = _people(num_voices, mixture, rng)
    order, recordings = _casts(people, rng)
    people = people[order]
    feeds = _feeds(people, recordings)
    split = np.flatnonzero(rng.random(len(people)) < mixture.split)
    people, recordings = np.append(people, people[split]), np.append(recordings, recordings[split])
    feeds = np.append(feeds, feeds[split])
    seconds = np.exp(rng.uniform(np.log(4), np.log(400), len(people)))
    vectors = _voices(people, seconds, spread, rng)
    noisy = rng.random(len(people)) < mixture.noisy
    noises = _unit(rng.standard_normal((mixture.num_noises, DIMENSION), np.float32))
    which = rng.integers(mixture.num_noises, size=noisy.sum())
    share = rng.uniform(0.6, 0.95, (noisy.sum(), 1)).astype(np.float32)
    vectors[noisy] = _unit(share * noises[which] + np.sqrt(1 - share**2) * vectors[noisy])
    rows, names = _again(recordings, mixture, rng)
    copies = np.append(np.zeros(len(people), bool), np.ones(len(rows), bool))
    encoded = rng.standard_normal((len(rows), DIMENSION), np.float32) * np.float32(
        0.1 / np.sqrt(DIMENSION)
    )
    return Corpus(
        np.concatenate([vectors, _unit(vectors[rows] + encoded)]),
        np.append(people, people[rows]),
        np.append(recordings, names),
        np.append(seconds, seconds[rows] + rng.uniform(-0.2, 0.2, len(rows))),
        copies,
        np.append(noisy, noisy[rows]),
        np.append(feeds, feeds[rows]),
    )


def _people(num_voices: int, mixture: Mixture, rng) -> np.ndarray:
    """Who speaks in each of the recordings' places."""
    largest = max(2, min(mixture.largest, num_voices // 20))
    sizes = np.arange(1, largest + 1)
    shares = sizes**-mixture.exponent
    shares /= shares.sum()
    drawn = rng.choice(sizes, int(num_voices / (sizes @ shares)) + 1, p=shares)
    drawn = drawn[np.cumsum(drawn) <= num_voices]
    drawn = np.append(drawn, np.ones(num_voices - drawn.sum(), int))
    return np.repeat(np.arange(len(drawn)), drawn)


def _casts(people: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    """Order of the voices, and recordings of one to five of them; nobody is in one twice."""
    order = rng.permutation(len(people))
    sizes = rng.choice([1, 2, 2, 2, 3, 4, 5], len(people))
    recordings = np.repeat(np.arange(len(people)), sizes)[: len(people)]
    for _ in range(20):  # who is in a recording already goes into one alone
        both = np.lexsort((people[order], recordings))
        twice = (np.diff(people[order][both]) == 0) & (np.diff(recordings[both]) == 0)
        if not twice.any():
            break
        some = both[1:][twice]
        recordings[some] = recordings.max() + 1 + np.arange(len(some))
    return order, np.unique(recordings, return_inverse=True)[1].ravel()


def _feeds(people: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    """A recording is of the feed of its most frequent person."""
    counts = np.bincount(people)
    order = np.lexsort((-counts[people], recordings))
    firsts = order[np.append(True, np.diff(recordings[order]) > 0)]
    return people[firsts][recordings]


def _voices(people: np.ndarray, seconds: np.ndarray, spread: Spread, rng) -> np.ndarray:
    between, within = (_axes(decay, rng) for decay in (spread.between, spread.within))
    means = rng.standard_normal((people.max() + 1, DIMENSION), np.float32) @ between
    means += spread.mean * _unit(rng.standard_normal(DIMENSION, np.float32))
    means = _unit(means)
    reliability = spread.cohesion * seconds / (seconds + spread.half)
    noise = np.sqrt((1 - reliability) / reliability)
    # now and then a recording is bad, or a person hoarse
    quality = np.sqrt((spread.freedom - 2) / rng.chisquare(spread.freedom, len(people)))
    vectors = np.empty((len(people), DIMENSION), np.float32)
    for start in range(0, len(people), 2**17):
        part = slice(start, start + 2**17)
        drawn = rng.standard_normal((len(people[part]), DIMENSION), np.float32) @ within
        drawn *= (noise * quality)[part, None].astype(np.float32)
        vectors[part] = _unit(means[people[part]] + drawn)
    return vectors


def _again(recordings: np.ndarray, mixture: Mixture, rng) -> tuple[np.ndarray, np.ndarray]:
    """Voices of recordings that are there again, and the numbers of these."""
    number = recordings.max() + 1
    chosen = np.flatnonzero(rng.random(number) < mixture.reposted / 4)
    times = np.minimum(rng.zipf(1.6, len(chosen)), mixture.copies)
    order = np.argsort(recordings, kind="stable")
    bounds = np.searchsorted(recordings[order], np.arange(number + 1))
    rows, names = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for recording, count in zip(chosen, times, strict=True):
        own = order[bounds[recording] : bounds[recording + 1]]
        for _ in range(count):
            rows.append(own)
            names.append(np.full(len(own), number))
            number += 1
    return np.concatenate(rows), np.concatenate(names)


def _axes(decay: float, rng) -> np.ndarray:
    rotation = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0]
    variances = np.exp(-np.arange(DIMENSION) / decay)
    scales = np.sqrt(variances / variances.sum())
    return (scales[:, None] * rotation).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
