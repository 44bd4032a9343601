"""What hooks hear: pyannote.audio's events, with the types of pyannote.core."""

import numpy as np
import pytest
from pyannote.core import SlidingWindowFeature

from raydiar import audio
from raydiar.pipelines import ArtifactHook, Hooks, ProgressHook, TimingHook


@pytest.fixture(scope="module")
def heard(pipeline, sample_wav):
    """Events of one recording and the mapping that hooks wrote to; the output."""
    samples = audio.decode(sample_wav, start=6.0, duration=13.0)
    waveform = samples.astype(np.float32)[None] / 32768
    file = {"waveform": waveform, "sample_rate": 16000, "uri": "talk"}
    events = []

    def note(step, artifact, file=None, total=None, completed=None):
        events.append((step, artifact is not None, total, completed, file["uri"]))

    timing = TimingHook()
    with Hooks(note, ArtifactHook("segmentation", "speaker_counting"), timing) as hook:
        assert hook.needs_artifacts
        output = pipeline(file, hook=hook)
    everything = {}
    with ArtifactHook(file_key="kept") as hook:
        everything = dict(file)
        pipeline(everything, hook=hook)
    return events, file, everything["kept"], output


def test_the_events_are_those_of_pyannote(heard):
    events, _, _, _ = heard
    assert {uri for *_, uri in events} == {"talk"}
    done = [step for step, artifact, *_ in events if artifact]
    assert done == ["segmentation", "speaker_counting", "embeddings", "discrete_diarization"]
    for step, total in (("segmentation", 4), ("embeddings", 4), ("clustering", 1)):
        counts = [(c, t) for s, _, t, c, _ in events if s == step and t is not None]
        assert counts[0] == (0, total)
        assert counts[-1] == (total, total)
        assert counts == sorted(counts)
    assert events.index(("clustering", False, 1, 0, "talk")) < events.index(
        ("clustering", False, 1, 1, "talk")
    )


def test_artifacts_are_of_pyannotes_types(heard):
    _, _, kept, output = heard
    segmentation = kept["segmentation"]
    assert isinstance(segmentation, SlidingWindowFeature)
    assert segmentation.data.shape == (4, 589, 3)
    assert (segmentation.sliding_window.duration, segmentation.sliding_window.step) == (10, 1)
    count = kept["speaker_counting"]
    assert count.data.shape == (len(count), 1)
    assert set(np.unique(count.data)) <= {0, 1, 2}
    assert kept["embeddings"].shape == (4, 3, 192)
    discrete = kept["discrete_diarization"]
    assert discrete.labels == output.labels()
    assert np.isfinite(kept["embeddings"]).any()
    # what is active of each speaker is what its turns last
    seconds = discrete.data.sum(axis=0) * discrete.sliding_window.step
    expected = [speaker.speech_seconds for speaker in output.speakers]
    np.testing.assert_allclose(seconds, expected, atol=0.07)


def test_hooks_write_into_the_callers_mapping(heard):
    _, file, _, _ = heard
    assert set(file["artifact"]) == {"segmentation", "speaker_counting"}
    timing = file["timing"]
    assert set(timing) == {"total", "segmentation", "embeddings", "clustering"}
    assert 0 < timing["segmentation"] <= timing["total"]


def test_progress_needs_no_artifacts(pipeline, sample_wav):
    seen = []

    class Quiet(ProgressHook):
        def __call__(self, step, artifact=None, **counts):
            seen.append(artifact)
            super().__call__(step, artifact, **counts)

    with Quiet(hidden=True) as hook:
        assert not Hooks(hook, TimingHook()).needs_artifacts
        files = [
            {"audio": sample_wav, "duration": 2.0, "uri": "one"},
            {"audio": sample_wav, "start": 8.0, "duration": 3.0, "uri": "two"},
        ]
        assert len(list(pipeline(files, hook=hook))) == 2
        assert all(task.finished for task in hook._progress.tasks)
        assert {uri for uri, _ in hook._tasks} == {"one", "two"}
    assert seen
    assert not any(artifact is not None for artifact in seen)
