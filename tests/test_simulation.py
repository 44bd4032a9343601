"""Simulated conversations: what is heard is what the labels say, and the seed is all it takes."""

import hashlib
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from audio_files import lag, speech_like
from numpy.lib.stride_tricks import sliding_window_view

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.diarization import Turn, read_rttm
from raydiar.errors import ConfigError, SimulationError
from raydiar.simulation import (
    Room,
    SimulationParameters,
    Simulator,
    TurnStructure,
    plan_people,
    read_structures,
)

HERTZ = {"ann": 400, "bob": 1000, "cleo": 1600, "dan": 2200}
PLAIN = {"level": (0, 0), "reverb_probability": 0, "noise_probability": 0}


def tone(hertz: int, seconds: float) -> np.ndarray:
    """Whole periods in every 10 ms, so that stretches join without a seam."""
    at = np.arange(round(seconds * SAMPLE_RATE))
    return np.rint(8000 * np.sin(2 * np.pi * hertz * at / SAMPLE_RATE)).astype(np.int16)


def tones() -> dict[str, list[np.ndarray]]:
    """Voices that a spectrum tells apart, without a pause."""
    return {person: [tone(hertz, 2), tone(hertz, 3)] for person, hertz in HERTZ.items()}


def conversation_structure(num_speakers: int = 4, duration: float = 200, seed: int = 0):
    """Turns of 0.3 to 4 s, after pauses or interrupting, at times with three decimals."""
    rng = np.random.default_rng(seed)
    turns, now, previous = [], 0.5, -1
    while now < duration - 5:
        speaker = int(rng.choice([s for s in range(num_speakers) if s != previous]))
        end = now + rng.uniform(0.3, 4)
        turns.append(Turn(round(now, 3), round(end, 3), f"spk{speaker}"))
        now, previous = max(now + 0.1, end + rng.uniform(-0.8, 0.8)), speaker
    return TurnStructure("real", duration, tuple(turns))


def simulator(voices=None, rooms=(), noises=(), structures=None, **parameters):
    parameters = {"duration": (20, 30), "speakers": (2, 4)} | PLAIN | parameters
    structures = structures or [conversation_structure(count) for count in (2, 3, 4)]
    return Simulator(
        voices or tones(), structures, rooms, noises, SimulationParameters(**parameters)
    )


def raster(turns, duration: float, step: float = 0.01) -> np.ndarray:
    """(num_speakers, num_steps) bool: who speaks, at the middle of steps."""
    at = np.arange(step / 2, duration, step)
    return np.array(
        [
            np.any([(t.start <= at) & (at < t.end) for t in turns if t.speaker == speaker], axis=0)
            for speaker in sorted({turn.speaker for turn in turns})
        ]
    )


def power_at(samples: np.ndarray, hertz: int) -> np.ndarray:
    """(num_frames,) power of a tone in frames of 20 ms, blind to other multiples of 50 Hz."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320).astype(float)
    return 2 * np.abs(np.fft.rfft(frames)[:, hertz // 50] / 320) ** 2


def inside(turns, num_frames: int) -> np.ndarray:
    """(num_frames,) bool: frames of 20 ms that lie within a turn, its fades left out."""
    at = np.arange(num_frames) * 0.02
    return np.any([(t.start + 0.005 <= at) & (at + 0.02 <= t.end - 0.005) for t in turns], axis=0)


def outside(turns, num_frames: int) -> np.ndarray:
    """(num_frames,) bool: frames of 20 ms that no turn touches."""
    at = np.arange(num_frames) * 0.02
    return np.all([(at + 0.02 <= t.start) | (t.end <= at) for t in turns], axis=0)


# -- labels are true ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_everybody_is_heard_in_their_turns_and_nowhere_else(seed):
    conversation = simulator(speakers=(4, 4)).simulate(seed)
    assert conversation.people == sorted(HERTZ)
    num_frames = len(conversation.samples) // 320
    loudest = max(power_at(conversation.samples, hertz).max() for hertz in HERTZ.values())
    # a fade leaks into all frequencies, so frames in which any turn begins or ends do not count
    steady = np.all(
        [inside([t], num_frames) | outside([t], num_frames) for t in conversation.turns], axis=0
    )
    at_once = np.zeros(num_frames)
    for person, hertz in HERTZ.items():
        turns = [turn for turn in conversation.turns if turn.speaker == person]
        speaks = inside(turns, num_frames)
        heard = power_at(conversation.samples, hertz) / loudest
        assert heard[speaks].min() > 0.9
        assert heard[steady & ~speaks].max() < 1e-6
        at_once += speaks
    assert at_once.max() >= 2, "no overlap to see"


def test_there_is_digital_silence_where_nobody_speaks():
    conversation = simulator().simulate(3)
    silent = np.ones(len(conversation.samples), bool)
    for turn in conversation.turns:
        first, last = (round(at * SAMPLE_RATE) for at in (turn.start, turn.end))
        silent[first:last] = False
    assert silent.any()
    assert not conversation.samples[silent].any()


def test_silence_in_utterances_does_not_become_speech():
    rng = np.random.default_rng(0)

    def spoken(hertz):
        pieces = [
            np.zeros(16000),
            tone(hertz, 1.5),
            np.zeros(20000),
            tone(hertz, 1),
            np.zeros(9000),
        ]
        utterance = np.concatenate(pieces)
        return (utterance + 8 * rng.standard_normal(len(utterance))).astype(np.int16)

    voices = {person: [spoken(hertz), spoken(hertz)] for person, hertz in HERTZ.items()}
    conversation = simulator(voices, speakers=(2, 2)).simulate(0)
    for turn in conversation.turns:
        first, last = (round(at * SAMPLE_RATE) for at in (turn.start, turn.end))
        power = power_at(conversation.samples[first:last], HERTZ[turn.speaker])
        speech = np.flatnonzero(power > 0.05 * power.max())
        assert speech[0] <= 1  # the fade and the frame's grid
        assert speech[-1] >= len(power) - 2
        assert np.diff(speech, append=speech[-1]).max() * 0.02 <= 0.28


def test_labels_are_the_structures_to_the_length_of_a_pause():
    structure = conversation_structure()
    made = simulator(structures=[structure], speakers=(4, 4)).simulate(7)
    starts = np.array([turn.start for turn in structure.turns])
    # the second turn is whole, and says where the stretch was taken from
    offset = starts[:, None] - [turn.start for turn in made.turns[1:-1]]
    offsets = Counter(np.round(offset, 2).ravel().tolist())
    at, hits = offsets.most_common(1)[0]
    assert hits >= len(made.turns) - 2 - 3  # 3: rounding to 10 ms may go either way
    shifted = [Turn(t.start - at, t.end - at, t.speaker) for t in structure.turns]
    original = raster(shifted, made.duration).sum(axis=0)
    simulated = raster(made.turns, made.duration).sum(axis=0)
    assert (original != simulated).mean() < 0.03


def test_turns_of_one_speaker_that_overlap_are_one():
    turns = (Turn(0, 5, "a"), Turn(1, 3, "a"), Turn(4, 8, "a"), Turn(8, 9, "a"), Turn(2, 9, "b"))
    structure = TurnStructure("self-overlap", 10, turns)
    assert structure.turns == (Turn(0, 9, "a"), Turn(2, 9, "b"))
    conversation = simulator(structures=[structure], duration=(10, 10), speakers=(2, 2)).simulate(0)
    assert len(conversation.turns) == 2


def test_excerpts_have_as_many_speakers_as_asked_for():
    structure = conversation_structure(num_speakers=5)
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 5):
        duration = 3.0 if count == 1 else 5.0 * count
        excerpt = structure.excerpt(duration, rng, count, min_speech=0.5)
        assert len(excerpt.labels) == count
        assert excerpt.turns[-1].end <= excerpt.duration == duration
        for label in excerpt.labels:
            assert sum(t.duration for t in excerpt.turns if t.speaker == label) >= 0.5 - 1e-6
    assert structure.excerpt(20, rng, 6) is None
    assert structure.excerpt(201, rng) is None
    assert structure.excerpt(190, rng, 2) is None
    assert len(structure.excerpt(200, rng).turns) == len(structure.turns)


def test_everybody_in_an_excerpt_speaks_long_enough():
    turns = (Turn(0, 20, "a"), Turn(21, 21.4, "b"), Turn(40, 60, "a"), Turn(60, 63, "b"))
    structure = TurnStructure("brief", 64, turns)
    rng = np.random.default_rng(0)
    for _ in range(30):
        excerpt = structure.excerpt(15, rng, 2, min_speech=1)
        assert all(raster(excerpt.turns, 15).sum(axis=1) * 0.01 >= 0.99)
    assert structure.excerpt(15, rng, 2, min_speech=3.1) is None


# -- speech is not heard twice -----------------------------------------------------------------


def noise_voice(*seconds: float) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(-8000, 8000, round(s * SAMPLE_RATE), np.int16) for s in seconds]


def words(conversation) -> np.ndarray:
    """(num_words,) uint64: signs of every 64 successive samples in turns, alike only by reuse."""
    found = []
    for turn in conversation.turns:
        first, last = (round(at * SAMPLE_RATE) for at in (turn.start, turn.end))
        signs = sliding_window_view(conversation.samples[first:last] > 0, 64)
        found.append(np.packbits(signs, axis=1).view(np.uint64).ravel())
    return np.concatenate(found)


def test_nothing_is_repeated_before_everything_was_said():
    utterances = noise_voice(9, 7, 8)
    turns = tuple(Turn(s, s + 2.5, "a") for s in range(0, 36, 3))
    structure = TurnStructure("one", 36, turns)
    once, more = (
        simulator(
            {"ann": utterances}, structures=[structure], duration=(seconds,) * 2, speakers=(1, 1)
        ).simulate(1)
        for seconds in (27, 36)
    )
    assert len(words(once)) > 20 * SAMPLE_RATE  # of 24 that there are
    assert len(np.unique(words(once))) == len(words(once))
    assert once.utterances == (("ann", 0), ("ann", 1), ("ann", 2))
    assert len(np.unique(words(more))) < len(words(more)), "30 s of 24: nothing to see"


@pytest.mark.parametrize("seconds", [(20,), (6, 5, 7, 6), (9, 9, 9)])
def test_parts_of_a_persons_speech_have_nothing_in_common(seconds):
    structure = TurnStructure("one", 12, (Turn(0, 5, "a"), Turn(6, 12, "a")))
    maker = simulator(
        {"ann": noise_voice(*seconds)},
        structures=[structure],
        duration=(12, 12),
        speakers=(1, 1),
    )
    parts = [np.unique(words(maker.simulate(0, people={"ann": (k, 4)}))) for k in range(4)]
    for index, part in enumerate(parts):
        assert len(part) > 2 * SAMPLE_RATE
        for other in parts[:index]:
            assert not len(np.intersect1d(part, other))


def test_everybody_is_planned_equally_often_and_with_speech_of_their_own():
    people = [f"p{i}" for i in range(20)]
    plan = plan_people(people, 15, (2, 6), seed=3)
    assert {len(cast) for cast in plan} <= set(range(2, 7))
    parts = {person: [cast[person] for cast in plan if person in cast] for person in people}
    counts = [len(of) for of in parts.values()]
    assert min(counts) >= 2
    assert max(counts) - min(counts) <= 1
    for of in parts.values():
        assert sorted(of) == [(index, len(of)) for index in range(len(of))]
    assert plan == plan_people(people[::-1], 15, (2, 6), seed=3)
    assert plan != plan_people(people, 15, (2, 6), seed=4)
    with pytest.raises(SimulationError, match="too few for 20 people"):
        plan_people(people, 5)
    with pytest.raises(SimulationError, match="5 people are too few"):
        plan_people(people[:5], 50)


def test_those_who_are_named_speak():
    maker = simulator()
    for cast in plan_people(sorted(HERTZ), 5, (2, 3)):
        assert maker.simulate(0, people=cast, uri="x").people == sorted(cast)
    assert maker.simulate(0, people=["dan", "ann"]).people == ["ann", "dan"]


# -- the seed is all it takes ------------------------------------------------------------------

SCRIPT = """
import hashlib
from test_simulation import everything
made = everything().simulate((7, 1))
print(hashlib.sha256(made.samples.tobytes() + made.diarization.to_rttm().encode()).hexdigest())
"""


def everything() -> Simulator:
    rng = np.random.default_rng(0)
    voices = {f"p{i}": [speech_like(6, seed=i), speech_like(4, seed=i + 50)] for i in range(6)}
    noises = [(1000 * rng.standard_normal(16000 * s)).astype(np.int16) for s in (3, 60)]
    return simulator(
        voices,
        [Room([echoes(0.1), echoes(0.02)]), Room([echoes(0)])],
        noises,
        level=(-8, 0),
        reverb_probability=1,
        noise_probability=1,
    )


def echoes(delay: float, gain: float = 1.0) -> np.ndarray:
    """Direct sound after a delay, and a tail that decays by 60 dB in 0.4 s."""
    rng = np.random.default_rng(1)
    tail = 0.1 * rng.standard_normal(6400) * 10 ** (-3 * np.arange(6400) / 6400)
    tail[0] = 1
    return gain * np.concatenate([1e-4 * rng.standard_normal(round(delay * SAMPLE_RATE)), tail])


def test_another_process_makes_the_same_bytes(monkeypatch):
    maker = everything()
    maker.simulate(1)  # what came before is of no matter
    made = maker.simulate((7, 1))
    assert (pickle.loads(pickle.dumps(maker)).simulate((7, 1)).samples == made.samples).all()
    digest = hashlib.sha256(made.samples.tobytes() + made.diarization.to_rttm().encode())
    monkeypatch.setenv("PYTHONHASHSEED", "99")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    other = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert other.stdout.strip() == digest.hexdigest(), other.stderr
    assert made.uri == "simulated-7-1"


def test_other_seeds_make_other_conversations():
    made = list(map(everything().simulate, range(8)))
    assert len({conversation.samples.tobytes() for conversation in made}) == 8
    assert len({tuple(conversation.people) for conversation in made}) > 3


def test_the_order_of_the_voices_is_of_no_matter():
    voices = tones()
    reverse = dict(reversed(voices.items()))
    assert (simulator(voices).simulate(4).samples == simulator(reverse).simulate(4).samples).all()


def test_voices_may_be_loaded_when_they_are_wanted():
    loaded = []

    def loader(person, samples):
        def load():
            loaded.append(person)
            return samples

        return load

    voices = tones()
    lazy = {p: [loader(p, samples) for samples in of] for p, of in voices.items()}
    made = simulator(lazy).simulate(0, people=["ann", "cleo"])
    assert set(loaded) == {"ann", "cleo"}
    assert (made.samples == simulator(voices).simulate(0, people=["ann", "cleo"]).samples).all()


# -- sound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.7, 300])
def test_the_noise_is_as_loud_as_it_says(seconds):
    made = simulator(
        noises=[tone(7000, seconds)], noise_probability=1, snr=(3, 20), speakers=(3, 3)
    ).simulate(2)
    noise = power_at(made.samples, 7000).mean()
    frames = len(made.samples) // 320
    speech = sum(power_at(made.samples, hertz) for hertz in HERTZ.values())
    speech = speech[inside(made.turns, frames)].mean()
    assert 10 * np.log10(speech / noise) == pytest.approx(made.snr, abs=0.3)
    assert 3 <= made.snr <= 20


def test_a_noise_that_goes_round_does_not_click():
    hum = tone(92, 0.1 + 46.25 / 92)  # a quarter period too long, less the 0.1 s that are faded
    made = simulator(noises=[hum], noise_probability=1, snr=(-40, -40)).simulate(0)
    steps = np.abs(np.diff(made.samples.astype(float)))
    steady = 2 * np.pi * 92 / SAMPLE_RATE * np.abs(made.samples.astype(float)).max()
    assert steps.max() < 3 * steady


@pytest.mark.parametrize("delay", [0, 0.004, 0.137])
def test_speech_stays_where_its_labels_are_in_a_room(delay):
    voices = {"ann": [speech_like(8)], "bob": [speech_like(8, seed=2)]}
    rooms = [Room([echoes(delay)])]
    dry = simulator(voices, rooms, speakers=(2, 2)).simulate(0)
    wet = simulator(voices, rooms, speakers=(2, 2), reverb_probability=1).simulate(0)
    assert wet.turns == dry.turns
    assert (wet.room, dry.room) == (0, None)
    assert abs(lag(dry.samples, wet.samples)) <= 16
    onset, onset_dry = (
        np.argmax(np.abs(s.astype(float)) > 0.05 * np.abs(s.astype(float)).max())
        for s in (wet.samples, dry.samples)
    )
    assert abs(int(onset) - int(onset_dry)) <= 0.003 * SAMPLE_RATE
    assert (wet.samples != dry.samples).any()


def test_places_in_a_room_change_nobodys_level():
    room = Room([echoes(0.01), echoes(0.03, gain=1e-3)])
    made = simulator(rooms=[room], reverb_probability=1, level=(-3, -3)).simulate(
        0, people=["ann", "bob"]
    )
    frames = len(made.samples) // 320
    levels = []
    for person in ("ann", "bob"):
        turns = [turn for turn in made.turns if turn.speaker == person]
        power = power_at(made.samples, HERTZ[person])
        levels.append(10 * np.log10(power[inside(turns, frames)].mean()))
    assert abs(levels[0] - levels[1]) < 1.5


def test_people_speak_at_different_levels():
    made = simulator(level=(-20, 0)).simulate(0, people=list(HERTZ))
    frames = len(made.samples) // 320
    levels = {}
    for person, hertz in HERTZ.items():
        turns = [turn for turn in made.turns if turn.speaker == person]
        power = power_at(made.samples, hertz)[inside(turns, frames)]
        levels[person] = 10 * np.log10(power.mean())
    spread = max(levels.values()) - min(levels.values())
    assert 2 < spread <= 20.2


def test_an_utterance_that_was_recorded_loud_is_not_heard_louder():
    voices = {"ann": [tone(400, 4)], "bob": [tone(1000, 4) // 50]}
    made = simulator(voices, speakers=(2, 2)).simulate(0)
    powers = [np.percentile(power_at(made.samples, hertz), 99) for hertz in (400, 1000)]
    assert powers[0] == pytest.approx(powers[1], rel=0.1)


def test_turns_begin_and_end_without_a_click():
    voices = {"ann": noise_voice(30), "bob": noise_voice(20)}
    made = simulator(voices, structures=[conversation_structure(2)], speakers=(2, 2)).simulate(0)
    loudness = np.abs(made.samples.astype(float))
    for turn in made.turns:
        others = [t for t in made.turns if t is not turn]
        for edge, sample in ((turn.start, 0), (turn.end, -1)):
            if not any(t.start - 0.001 <= edge <= t.end + 0.001 for t in others):
                assert loudness[round(edge * SAMPLE_RATE) + sample] < 0.01 * loudness.max()


@pytest.mark.parametrize("peak", [-12, -1, 0])
def test_the_peak_is_the_one_asked_for_and_never_wraps(peak):
    conversation = simulator(
        noises=noise_voice(2), noise_probability=1, snr=(0, 0), peak=(peak, peak)
    ).simulate(5)
    assert conversation.samples.dtype == np.int16
    highest = np.abs(conversation.samples.astype(int)).max()
    assert highest == pytest.approx(32767 * 10 ** (peak / 20), abs=1)
    steps = np.abs(np.diff(conversation.samples.astype(int)))
    assert steps.max() < 2 * highest


# -- files and errors --------------------------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path):
    made = simulator().simulate(0, uri="talk")
    sound, labels = made.write(tmp_path / "new")
    assert (decode(sound) == made.samples).all()
    [(uri, diarization)] = read_rttm(labels).items()
    assert uri == "talk"
    assert len(diarization.turns) == len(made.turns)
    for read, turn in zip(diarization.turns, made.diarization.turns, strict=True):
        assert read.speaker == turn.speaker
        assert (read.start, read.end) == pytest.approx((turn.start, turn.end), abs=1e-9)
    with pytest.raises(ValueError, match="white space"):
        simulator().simulate(0, uri="a talk").write(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SPEAKER file 1 zero 1.0 <NA> <NA> a <NA> <NA>\n", "line 1 is not RTTM"),
        (b"\xff\xfe\x00", "cannot be read as RTTM"),
        (b"", "has no turns"),
        (b"SPEAKER file 1 nan 1.0 <NA> <NA> a <NA> <NA>\n", "line 1 is not RTTM"),
        (b"SPEAKER file 1 4.0 -1.0 <NA> <NA> a <NA> <NA>\n", "line 1 is not RTTM"),
        (b"SPEAKER file 1 4.0 0.0 <NA> <NA> a <NA> <NA>\n", "has no turns"),
    ],
)
def test_rttm_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "file.rttm"
    path.write_bytes(content)
    with pytest.raises(SimulationError, match=message) as error:
        read_structures([path])
    assert "file" in str(error.value)
    with pytest.raises(SimulationError, match=r"absent\.rttm"):
        read_structures([tmp_path / "absent.rttm"])


def test_what_cannot_be_simulated_says_why():
    structure = conversation_structure()
    with pytest.raises(SimulationError, match="no voices"):
        Simulator({}, [structure])
    with pytest.raises(SimulationError, match="no utterances of ann"):
        Simulator({"ann": []}, [structure])
    with pytest.raises(SimulationError, match="no turn structures"):
        Simulator(tones(), [])
    with pytest.raises(SimulationError, match="4 voices are too few"):
        simulator(speakers=(2, 5)).simulate(0)
    with pytest.raises(SimulationError, match="exactly 3 people"):
        simulator(structures=[conversation_structure(2)]).simulate(0, people=["ann", "bob", "dan"])
    with pytest.raises(SimulationError, match="'eve'"):
        simulator().simulate(0, people=["ann", "eve"])
    with pytest.raises(SimulationError, match="twice"):
        simulator().simulate(0, people=["ann", "ann"])
    with pytest.raises(SimulationError, match="Nobody"):
        simulator().simulate(0, people=[])
    with pytest.raises(SimulationError, match="part 2 of 2"):
        simulator().simulate(0, people={"ann": (2, 2)})
    with pytest.raises(SimulationError, match="Noise 0 is silent"):
        simulator(noises=[np.zeros(9000)], noise_probability=1).simulate(0)
    with pytest.raises(SimulationError, match="Impulse response 1 is silent"):
        Room([echoes(0), np.zeros(100)])
    with pytest.raises(SimulationError, match="at least one"):
        Room([])


@pytest.mark.parametrize(
    ("utterance", "message"),
    [
        (np.zeros(16000, np.int16), "no speech in what ann"),
        (np.zeros(0, np.int16), "Utterance 0 of ann cannot be used"),
        (np.zeros(100, np.int16), "no speech in what ann"),
        (np.full(16000, np.nan), "Utterance 0 of ann cannot be used"),
        (lambda: np.zeros((2, 3, 4)), "Utterance 0 of ann cannot be used"),
    ],
)
def test_a_voice_that_cannot_be_used_is_named(utterance, message):
    maker = simulator(tones() | {"ann": [utterance]})
    with pytest.raises(SimulationError, match=message):
        maker.simulate(0, people=["ann", "bob"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"duration": (30, 20)},
        {"duration": (0, 20)},
        {"speakers": (0, 2)},
        {"snr": (5, float("inf"))},
        {"reverb_probability": 1.5},
        {"peak": (-1, 3)},
        {"min_speech": 0},
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong)).split("_")[0] + "|lasts"):
        SimulationParameters(**wrong)


# -- real data ---------------------------------------------------------------------------------


@pytest.mark.reference
def test_real_voices_in_a_real_conversation(shared):
    voices = {}
    for path in sorted((shared / "audio/librispeech").glob("*/*.flac"))[:40]:
        voices.setdefault(path.parent.name, []).append(decode(path))
    [structure] = read_structures([shared / "labels/voxconverse-dev/afjiv.rttm"])
    count = len(structure.labels)
    structure = structure.excerpt(60, np.random.default_rng(0), min_speech=1)
    count = len(structure.labels)
    made = Simulator(
        voices,
        [structure],
        [Room([decode(shared / "noise/rir/rir4.wav")])],
        [decode(shared / "noise/background/noise3.wav")],
        SimulationParameters(
            duration=(60, 60), speakers=(count, count), reverb_probability=1, snr=(20, 20)
        ),
    ).simulate(0)
    real, simulated = raster(structure.turns, 60), raster(made.turns, 60)
    assert len(made.people) == count
    speaking = [labels.any(axis=0).mean() for labels in (real, simulated)]
    overlapping = [(labels.sum(axis=0) > 1).mean() for labels in (real, simulated)]
    assert speaking[1] == pytest.approx(speaking[0], abs=0.02)
    assert overlapping[1] == pytest.approx(overlapping[0], abs=0.01)
    # what can be heard, by energy alone: far more in turns than in pauses
    power = np.square(made.samples.astype(float)).reshape(-1, 160).mean(axis=1)
    anybody = simulated.any(axis=0)
    assert np.median(power[anybody]) > 5 * np.median(power[~anybody])
