"""Local speakers for tests: of published reference cases, and of conversations written down."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raydiar.local_speakers import LocalSpeakers, pack_activity
from raydiar.windows import WindowGrid

FRAME = 0.016875  # seconds


def reference_case(folder: Path) -> LocalSpeakers:
    """Of a community-1 case, whose published segmentation holds hard decisions only."""
    active = np.load(folder / "segmentations.npz")["segmentations"].astype(np.uint8)
    embeddings = np.load(folder / "raw_embeddings.npz")["embeddings"]
    owners = np.argwhere(active.any(axis=1)).astype(np.int32)
    return LocalSpeakers(
        num_samples=160000 + 16000 * (len(active) - 1),
        activity=pack_activity(active),
        posteriors=active * np.uint8(255),
        embeddings=embeddings[owners[:, 0], owners[:, 1]],
        owners=owners,
    )


def conversation(
    spoken: Sequence[tuple[float, float, int]],
    duration: float,
    *,
    posterior: float = 0.9,
    noise: float = 0.2,
    dimension: int = 192,
) -> LocalSpeakers:
    """What perfect networks would make of a conversation.

    Parameters
    ----------
    spoken : sequence of (start, end, speaker)
        In seconds; speakers are numbered from 0. At most three in any window.
    posterior : float
        Of a speaker who is active; 0.05 for one who is not.
    noise : float
        Length of what is added to the unit voice of a speaker to make an embedding.
    """
    rng = np.random.default_rng(0)
    grid = WindowGrid()
    num_samples = round(duration * grid.sample_rate)
    num_windows = grid.num_windows(num_samples)
    speakers = 1 + max((speaker for *_, speaker in spoken), default=0)
    voices = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0][:speakers]
    times = grid.frame_time(np.arange(grid.total_frames(num_windows)))
    talking = np.zeros((len(times), speakers), np.uint8)
    for start, end, speaker in spoken:
        talking[(times >= start) & (times < end), speaker] = 1

    active = np.zeros((num_windows, grid.num_frames, 3), np.uint8)
    owners, embeddings = [], []
    for window, offset in enumerate(grid.frame_offsets(num_windows)):
        part = talking[offset : offset + grid.num_frames]
        heard = rng.permutation(np.flatnonzero(part.any(axis=0)))
        assert len(heard) <= 3, "a window holds three local speakers"
        for local_speaker, speaker in enumerate(heard):
            active[window, :, local_speaker] = part[:, speaker]
            owners.append((window, local_speaker))
            jitter = rng.standard_normal(dimension) * noise / np.sqrt(dimension)
            embeddings.append(3.0 * (voices[speaker] + jitter))
            if part[:, speaker].sum() < 10:
                embeddings[-1][:] = np.nan  # too short for an embedding network
    return LocalSpeakers(
        num_samples=num_samples,
        activity=pack_activity(active),
        posteriors=np.where(active, round(255 * posterior), 13).astype(np.uint8),
        embeddings=np.array(embeddings, np.float32).reshape(-1, dimension),
        owners=np.array(owners, np.int32).reshape(-1, 2),
    )
