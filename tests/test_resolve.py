"""The resolve step as its users see it: turns, speakers, voiceprints, warnings."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from clustering_cases import FRAME, conversation

from raydiar.clustering import (
    PLDA,
    AgglomerativeParameters,
    CountingParameters,
    KMeansParameters,
    VBxParameters,
    resolve,
)
from raydiar.errors import CheckpointError, ConfigError
from raydiar.local_speakers import pack_activity

AHC = AgglomerativeParameters()
DIALOGUE = [(1.0, 7.0, 0), (8.0, 15.0, 1), (14.0, 20.0, 0), (21.0, 27.0, 1)]


@pytest.fixture(scope="module")
def plda_folder(tmp_path_factory):
    """A PLDA of 192 dimensions that keeps the voices of `conversation` apart."""
    folder = tmp_path_factory.mktemp("plda")
    dimension = 192
    np.savez(
        folder / "xvec_transform.npz",
        mean1=np.zeros(dimension),
        mean2=np.zeros(dimension, np.float32),
        lda=np.eye(dimension, dtype=np.float32),
    )
    np.savez(
        folder / "plda.npz",
        mu=np.zeros(dimension),
        tr=np.eye(dimension),
        psi=np.linspace(20.0, 10.0, dimension),
    )
    return folder


def said(turns):
    return [(turn.start, turn.end, turn.speaker) for turn in turns]


def assert_turns(turns, expected):
    """Equal to within a frame, in order."""
    assert [turn.speaker for turn in turns] == [
        f"SPEAKER_{speaker:02d}" for *_, speaker in expected
    ]
    got = [(turn.start, turn.end) for turn in turns]
    np.testing.assert_allclose(got, [times[:2] for times in expected], atol=FRAME)


@pytest.mark.parametrize("method", ["agglomerative", "vbx", "kmeans"])
def test_every_method_finds_who_spoke_when_overlap_included(method, plda_folder):
    local = conversation(DIALOGUE, 30.0)
    if method == "agglomerative":
        output = resolve(local, AHC, uri="call")
    elif method == "vbx":
        output = resolve(local, VBxParameters(), plda=PLDA.load(plda_folder), uri="call")
    else:
        output = resolve(local, KMeansParameters(), num_speakers=2, uri="call")
    assert_turns(output.turns, DIALOGUE)
    assert (output.uri, output.duration, output.clustering) == ("call", 30.0, "exact")
    assert output.warnings == ()


def test_exclusive_turns_never_overlap_and_cover_all_speech():
    output = resolve(conversation(DIALOGUE, 30.0), AHC)
    turns = output.exclusive_turns
    assert all(one.end <= other.start for one, other in pairwise(turns))
    covered = sum(turn.duration for turn in turns)
    assert covered == pytest.approx(6.0 + 12.0 + 6.0, abs=6 * FRAME)


def believed(local, start, end, posterior):
    """Silence of (start, end) s, where a window believes in each of its speakers so much."""
    grid = local.grid
    posteriors = local.posteriors.copy()
    for window, offset in enumerate(grid.frame_offsets(local.num_windows)):
        times = grid.frame_time(np.arange(offset, offset + grid.num_frames))
        posteriors[window, (times >= start) & (times < end)] = [round(255 * p) for p in posterior]
    return replace(local, posteriors=posteriors)


def test_speech_that_is_half_heard_counts_where_beliefs_do():
    # the same person goes on, but silence was a little likelier in every window
    spoken = [(1.0, 7.0, 0), (8.0, 14.0, 0)]
    local = believed(conversation(spoken, 20.0), 7.0, 8.0, (0.45, 0.0, 0.0))
    assert_turns(resolve(local, AHC).turns, spoken)
    counted = resolve(local, AHC, counting=CountingParameters(speech=0.4))
    assert_turns(counted.turns, [(1.0, 14.0, 0)])
    assert 0.4 < counted.turns[0].confidence < 0.9
    assert_turns(resolve(local, AHC, counting=CountingParameters(speech=0.5)).turns, spoken)


def test_one_of_two_voices_is_one_speaker():
    # no window knows which of the two it is: that is no overlap
    local = believed(conversation(DIALOGUE, 30.0), 7.0, 8.0, (0.5, 0.45, 0.0))
    turns = resolve(local, AHC, counting=CountingParameters(0.4, 0.4)).turns
    assert sum(turn.start <= 7.5 < turn.end for turn in turns) == 1
    # and two of two are
    local = believed(conversation(DIALOGUE, 30.0), 7.0, 8.0, (0.9, 0.6, 0.0))
    turns = resolve(local, AHC, counting=CountingParameters(0.4, 0.4)).turns
    assert {turn.speaker for turn in turns if turn.start <= 7.5 < turn.end} == {
        "SPEAKER_00",
        "SPEAKER_01",
    }


def test_every_host_counts_as_its_pipeline_says():
    from raydiar.corpus.job.run import _Job
    from raydiar.corpus.output import dataset
    from raydiar.pipelines import SpeakerDiarization
    from raydiar.pipelines.config import EXACT, SOFT
    from raydiar.serving.deployments.resolving import Resolver

    spoken = [(1.0, 7.0, 0), (8.0, 14.0, 0)]
    local = believed(conversation(spoken, 20.0), 7.0, 8.0, (0.45, 0.0, 0.0))
    weights = EXACT.localize()
    for config, expected in ((EXACT, spoken), (SOFT, [(1.0, 14.0, 0)])):
        pipeline = weights.with_config(config)
        assert_turns(SpeakerDiarization(pipeline).resolve(local).turns, expected)
        assert_turns(Resolver.of(pipeline)(local, "call").turns, expected)
        schema = dataset.dataset_schema(192, pipeline=pipeline.describe())
        job = _Job(output=None, run="r", plan=None, weights=pipeline, schema=schema).resolve()
        asked = {"recording_id": "a", "uri": "a", "start": 0.0, "duration": None, "channel": None}
        asked |= dict.fromkeys(("num_speakers", "min_speakers", "max_speakers"))
        row = job._row(asked, None, [], local)
        assert [turn["end"] for turn in row["turns"]] == pytest.approx(
            [end for _, end, _ in expected], abs=FRAME
        )


def test_beliefs_that_are_sure_count_as_decisions_do():
    local = conversation(DIALOGUE, 30.0, posterior=1.0)
    local = replace(local, posteriors=np.where(local.posteriors == 255, 255, 0).astype(np.uint8))
    for counting in (CountingParameters(), CountingParameters(0.01, 0.99)):
        output = resolve(local, AHC, counting=counting)
        assert output.turns == resolve(local, AHC).turns
    alone = resolve(local, AHC, counting=CountingParameters(), max_speakers=1)
    assert {turn.speaker for turn in alone.turns} == {"SPEAKER_00"}


def test_speakers_are_numbered_as_they_are_heard():
    spoken = [(1.0, 7.0, 2), (8.0, 14.0, 0), (15.0, 21.0, 1), (22.0, 28.0, 2)]
    output = resolve(conversation(spoken, 30.0), AHC)
    assert [turn.speaker for turn in output.turns] == [f"SPEAKER_0{n}" for n in (0, 1, 2, 0)]
    assert output.labels() == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]


def test_silence_is_empty_and_says_so_only_to_who_expected_speakers():
    silence = conversation([], 25.0)
    output = resolve(silence, AHC)
    assert (output.turns, output.speakers, output.warnings) == ((), (), ())
    assert output.duration == 25.0
    [warning] = resolve(silence, AHC, num_speakers=2).warnings
    assert "no speech" in warning


@pytest.mark.parametrize("duration", [0.5, 3.2, 10.0, 10.01, 30.03])
def test_no_turn_runs_past_the_end_of_the_recording(duration):
    # the networks see padding after the end and may hear a voice in it
    local = conversation([(0.0, duration + 9.0, 0)], duration)
    output = resolve(local, AHC)
    [turn] = output.turns
    assert turn.start == pytest.approx(0.031, abs=0.001)
    assert turn.end <= duration
    # frames at the very end are covered by no window
    assert turn.end > duration - 0.1
    assert output.exclusive_turns[-1].end <= duration


def test_a_turn_is_one_turn_wherever_memory_blocks_end():
    spoken = [(540.0, 570.0, 0), (575.0, 590.0, 1), (1100.0, 1110.0, 0)]
    output = resolve(conversation(spoken, 1120.0), AHC)
    assert_turns(output.turns, spoken)
    assert_turns(output.exclusive_turns, spoken)
    assert [turn.confidence for turn in output.turns] == pytest.approx([0.9] * 3, abs=0.01)


def test_one_speaker_with_one_voiceprint():
    output = resolve(conversation([(2.0, 9.0, 0), (12.0, 19.0, 0)], 20.0), AHC)
    assert output.labels() == ["SPEAKER_00"]
    assert output.speaker_embeddings.shape == (1, 192)
    assert output.speaker_embeddings.dtype == np.float32


@pytest.mark.parametrize("number", [{"num_speakers": 1}, {"max_speakers": 1}])
def test_a_single_speaker_asked_for_never_talks_over_itself(number):
    output = resolve(conversation(DIALOGUE, 30.0), AHC, **number)
    assert output.labels() == ["SPEAKER_00"]
    assert said(output.turns) == said(output.exclusive_turns)
    assert output.warnings == ()


def test_more_speakers_asked_for_than_there_are_voices_gives_what_there_is(plda_folder):
    local = conversation([(1.0, 4.0, 0), (5.0, 8.0, 1)], 9.0)  # one window, two embeddings
    for parameters in (AHC, VBxParameters(), KMeansParameters()):
        output = resolve(local, parameters, plda=PLDA.load(plda_folder), num_speakers=5)
        assert output.num_speakers == 2
        [warning] = output.warnings
        assert "found 2 speakers, 5 asked for" in warning
        assert "only 2 local speakers" in warning


def test_bounds_are_kept(plda_folder):
    spoken = [(1.0 + 8 * turn, 8.0 + 8 * turn, turn % 4) for turn in range(8)]
    local = conversation(spoken, 66.0)
    plda = PLDA.load(plda_folder)
    for parameters in (AHC, VBxParameters()):
        assert resolve(local, parameters, plda=plda).num_speakers == 4
        assert resolve(local, parameters, plda=plda, max_speakers=3).num_speakers == 3
        assert resolve(local, parameters, plda=plda, num_speakers=2).num_speakers == 2
    assert resolve(local, VBxParameters(), plda=plda, min_speakers=6).num_speakers == 6
    # no cut of a dendrogram makes six large clusters of four voices: the caller is told
    output = resolve(local, AHC, min_speakers=6)
    assert output.num_speakers == 4
    assert any("min_cluster_size" in warning for warning in output.warnings)


@pytest.mark.parametrize(
    "bounds",
    [
        {"min_speakers": 3, "max_speakers": 2},
        {"num_speakers": -1},
        {"max_speakers": 2.5},
        {"min_duration_off": -0.1},
        {"exact_limit": 0},
    ],
)
def test_contradictions_are_refused(bounds):
    with pytest.raises(ConfigError):
        resolve(conversation(DIALOGUE, 30.0), AHC, **bounds)


def test_a_voice_too_short_for_a_voiceprint_is_still_heard():
    # 0.12 s in silence: active in every window, embedded in none
    spoken = [(1.0, 9.0, 0), (20.0, 20.12, 1), (31.0, 39.0, 2)]
    output = resolve(conversation(spoken, 40.0), AHC)
    assert any(abs(turn.start - 20.0) < FRAME for turn in output.turns)
    assert np.isfinite(output.speaker_embeddings).all()
    assert all(speaker.embedding is not None for speaker in output.speakers)


def test_speech_without_any_usable_embedding_has_a_speaker_but_no_voiceprint():
    output = resolve(conversation([(3.0, 3.1, 0)], 12.0), AHC)
    [speaker] = output.speakers
    assert speaker.embedding is None
    assert (speaker.num_embeddings, speaker.embedding_seconds) == (0, 0.0)
    assert speaker.speech_seconds == pytest.approx(0.1, abs=FRAME)


def test_speakers_account_for_their_speech():
    output = resolve(conversation(DIALOGUE, 30.0), AHC)
    for speaker, seconds in zip(output.speakers, (12.0, 13.0), strict=True):
        turns = [turn for turn in output.turns if turn.speaker == speaker.speaker]
        assert speaker.speech_seconds == pytest.approx(sum(turn.duration for turn in turns))
        assert speaker.speech_seconds == pytest.approx(seconds, abs=3 * FRAME)
        # one second of each is spoken over by the other; windows overlap tenfold, time does not
        assert speaker.embedding_seconds == pytest.approx(seconds - 1.0, abs=4 * FRAME)
        assert 10 <= speaker.num_embeddings <= 21


def test_a_voiceprint_is_the_plain_mean_of_its_embeddings():
    local = conversation([(0.0, 30.0, 0)], 30.0)
    [speaker] = resolve(local, AHC).speakers
    np.testing.assert_allclose(speaker.embedding, local.embeddings.mean(axis=0), rtol=1e-5)
    assert speaker.num_embeddings == len(local.embeddings)


@pytest.mark.parametrize("posterior", [0.6, 0.9])
def test_confidence_is_the_posterior_of_being_active(posterior):
    output = resolve(conversation(DIALOGUE, 30.0, posterior=posterior), AHC)
    for turn in (*output.turns, *output.exclusive_turns):
        assert turn.confidence == pytest.approx(posterior, abs=0.01)


def test_short_pauses_are_filled_when_asked_for():
    spoken = [(1.0, 5.0, 0), (5.3, 9.0, 0), (9.7, 14.0, 0), (14.1, 20.0, 1)]
    local = conversation(spoken, 21.0)
    assert_turns(resolve(local, AHC).turns, spoken)
    filled = resolve(local, AHC, min_duration_off=0.5)
    assert_turns(filled.turns, [(1.0, 9.0, 0), (9.7, 14.0, 0), (14.1, 20.0, 1)])
    # the pause holds no speech: confidence falls
    assert filled.turns[0].confidence < filled.turns[1].confidence


def test_filling_pauses_keeps_exclusive_turns_exclusive():
    spoken = [(1.0, 8.0, 0), (8.0, 8.4, 1), (8.4, 16.0, 0), (20.0, 28.0, 1)]
    output = resolve(conversation(spoken, 30.0), AHC, min_duration_off=1.0)
    assert_turns(output.exclusive_turns, spoken)
    assert_turns(output.turns, [(1.0, 16.0, 0), *spoken[1::2]])


@pytest.mark.parametrize(("first", "second", "winner"), [(0.9, 0.6, 0), (0.6, 0.9, 1)])
def test_equal_votes_go_to_the_higher_posterior(first, second, winner):
    """Two windows take one stretch for different voices: the surer one is believed."""
    local = conversation([(1.5, 5.0, 0), (6.0, 9.5, 1)], 11.0)
    offsets = local.grid.frame_offsets(2)
    active, posteriors = local.active().copy(), local.posteriors.copy()
    disputed = slice(310, 340)  # between the two turns
    for window, (known, posterior) in enumerate([(180, first), (480, second)]):
        column = active[window, known - offsets[window]].argmax()
        frames = slice(disputed.start - offsets[window], disputed.stop - offsets[window])
        active[window, frames, column] = 1
        posteriors[window, frames, column] = round(255 * posterior)
    local = replace(local, activity=pack_activity(active), posteriors=posteriors)
    output = resolve(local, AHC, num_speakers=2)
    middle = local.grid.frame_time(325)
    [turn] = [turn for turn in output.turns if turn.start <= middle < turn.end]
    assert turn.speaker == f"SPEAKER_0{winner}"


def test_more_than_127_speakers():
    spoken = [(5.0 * speaker, 5.0 * speaker + 4.5, speaker) for speaker in range(130)]
    local = conversation(spoken, 650.0)
    output = resolve(local, replace(AHC, min_cluster_size=3))
    assert output.num_speakers == 130
    assert [turn.speaker for turn in output.turns] == [
        f"SPEAKER_{speaker:03d}" for speaker in range(130)
    ]
    assert output.labels() == sorted(output.labels())


def test_a_slice_is_refused():
    local = conversation(DIALOGUE, 30.0)
    first = local.owners[:, 0] < 5
    part = replace(
        local,
        activity=local.activity[:5],
        posteriors=local.posteriors[:5],
        embeddings=local.embeddings[first],
        owners=local.owners[first],
    )
    with pytest.raises(ValueError, match="slices"):
        resolve(part, AHC)


def test_missing_knowledge_is_named(plda_folder):
    local = conversation(DIALOGUE, 30.0)
    with pytest.raises(ConfigError, match="num_speakers"):
        resolve(local, KMeansParameters(), max_speakers=4)
    with pytest.raises(ConfigError, match="needs a PLDA"):
        resolve(local, VBxParameters())
    other = conversation(DIALOGUE, 30.0, dimension=64)
    with pytest.raises(ConfigError, match=r"dimension 192.*64"):
        resolve(other, VBxParameters(), plda=PLDA.load(plda_folder))


def test_parameters_that_make_no_sense_are_refused():
    for wrong in ({"method": "nearest"}, {"min_cluster_size": 0}, {"threshold": float("nan")}):
        with pytest.raises(ConfigError):
            AgglomerativeParameters(**wrong)
    for wrong in ({"Fa": 0.0}, {"Fb": -1.0}, {"threshold": "0.6"}):
        with pytest.raises(ConfigError):
            VBxParameters(**wrong)


def test_a_plda_that_is_not_one_is_refused(plda_folder, tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        PLDA.load(tmp_path)
    good = {name: dict(np.load(plda_folder / f"{name}.npz")) for name in ("xvec_transform", "plda")}

    def load(**changed):
        for name, arrays in good.items():
            np.savez(tmp_path / f"{name}.npz", **(arrays | changed.get(name, {})))
        return PLDA.load(tmp_path)

    assert load().dimension == 192
    with pytest.raises(CheckpointError, match="fit together"):
        load(plda={"mu": np.zeros(3)})
    with pytest.raises(CheckpointError, match="singular"):
        load(plda={"tr": np.zeros((192, 192))})
    with pytest.raises(CheckpointError, match="NaN"):
        load(plda={"psi": np.full(192, np.nan)})
    with pytest.raises(CheckpointError, match=r"plda\.npz"):
        load(plda={"psi": np.array([print], dtype=object)})  # a pickle: would run code when read
    (tmp_path / "plda.npz").write_bytes(b"not a zip file")
    with pytest.raises(CheckpointError, match=r"plda\.npz"):
        PLDA.load(tmp_path)
