"""From a seed to a conversation; and who is to speak in which, where that matters."""

from collections.abc import Mapping, Sequence

import numpy as np

from raydiar.audio import SAMPLE_RATE
from raydiar.diarization import Turn
from raydiar.errors import ConfigError, SimulationError
from raydiar.simulation.conversation import Conversation, SimulationParameters
from raydiar.simulation.room import Room, background
from raydiar.simulation.structure import TurnStructure
from raydiar.simulation.voices import FRAME, Part, Samples, Speech, load

_ALL: Part = (0, 1)
_MILLISECOND = SAMPLE_RATE // 1000
_FADE = np.sin(np.linspace(0, np.pi / 2, FRAME // 2, dtype=np.float32)) ** 2


class Simulator:
    """Simulates conversations, each from its own seed.

    It keeps no state between calls and can be pickled if the voices and noises can, so that any
    number of processes may share the seeds among them.

    Parameters
    ----------
    voices : mapping of str to sequence of Samples
        Per person, utterances at 16 kHz in which nobody else speaks; arrays, or functions that
        load one each time it is wanted. Some seconds to a minute long: an utterance is prepared
        as a whole.
    structures : sequence of TurnStructure
    rooms : sequence of Room
    noises : sequence of Samples
    parameters : SimulationParameters

    Raises
    ------
    SimulationError
        If there are no voices or structures, or somebody has no utterances.
    """

    def __init__(
        self,
        voices: Mapping[str, Sequence[Samples]],
        structures: Sequence[TurnStructure],
        rooms: Sequence[Room] = (),
        noises: Sequence[Samples] = (),
        parameters: SimulationParameters | None = None,
    ):
        if not voices:
            raise SimulationError("There are no voices to simulate conversations with.")
        for person, utterances in voices.items():
            if not len(utterances):
                raise SimulationError(f"There are no utterances of {person}.")
        if not structures:
            raise SimulationError("There are no turn structures to place voices on.")
        self.voices = voices
        self.structures = tuple(structures)
        self.rooms = tuple(rooms)
        self.noises = tuple(noises)
        self.parameters = parameters or SimulationParameters()

    def simulate(
        self,
        seed: int | Sequence[int],
        people: Sequence[str] | Mapping[str, Part] | None = None,
        uri: str | None = None,
    ) -> Conversation:
        """Make one conversation.

        Parameters
        ----------
        seed : int or sequence of int
            The same gives the same samples, whatever was simulated before. A sequence can hold
            epoch, worker, number.
        people : sequence of str, or mapping of str to Part, optional
            Exactly these speak; with a mapping, each with that part of their speech only (see
            `plan_people`). Drawn by default.
        uri : str, optional
            "simulated-<seed>" by default.

        Raises
        ------
        SimulationError
            If the people are unknown, named twice, or too few for `parameters.speakers`; if no
            turn structure has a stretch for so many; if a voice or noise is not mono sound or
            silent.
        """
        rng = np.random.default_rng(seed)
        drawn = self.parameters
        parts = self._parts(people, rng)
        structure = self._excerpt(len(parts), rng)
        # which of the people plays which role of the real conversation
        order = rng.permutation(sorted(parts)).tolist()
        roles = dict(zip(structure.labels, order, strict=True))
        speech = {
            person: Speech(person, self.voices[person], parts[person], rng) for person in order
        }
        gains = {person: _amplitude(rng.uniform(*drawn.level)) for person in order}
        room = _choose(self.rooms, drawn.reverb_probability, rng)
        places = [0] * len(order)
        if room is not None:
            places = self.rooms[room].places(len(order), rng).tolist()
        place_of = dict(zip(order, places, strict=True))

        num_samples = round(structure.duration * SAMPLE_RATE)
        # one track per place, not per person: rooms are linear, and convolution is what costs
        tracks = {place: np.zeros(num_samples, np.float32) for place in places}
        somebody = np.zeros(num_samples, bool)
        turns = []
        for turn in structure.turns:
            # RTTM counts milliseconds: labels stay exact in it
            first, last = (round(at * 1000) * _MILLISECOND for at in (turn.start, turn.end))
            num_frames = (min(last, num_samples) - first) // FRAME
            if num_frames < 1:
                continue
            person = roles[turn.speaker]
            piece = gains[person] * speech[person].take(num_frames)
            piece[: len(_FADE)] *= _FADE
            piece[-len(_FADE) :] *= _FADE[::-1]
            last = first + len(piece)
            tracks[place_of[person]][first:last] += piece
            somebody[first:last] = True
            turns.append(Turn(first / SAMPLE_RATE, last / SAMPLE_RATE, person))

        if room is not None:
            tracks = {
                place: self.rooms[room].reverberate(track, place) for place, track in tracks.items()
            }
        mixture = sum(tracks.values())
        noise = _choose(self.noises, drawn.noise_probability, rng)
        snr = None
        if noise is not None:
            snr = float(rng.uniform(*drawn.snr))
            mixture += self._background(noise, mixture[somebody], num_samples, snr, rng)
        peak = 32767 * _amplitude(rng.uniform(*drawn.peak))
        mixture *= peak / np.abs(mixture).max()
        return Conversation(
            uri=uri or "-".join(map(str, ["simulated", *np.atleast_1d(seed)])),
            samples=np.rint(mixture).astype(np.int16),
            turns=tuple(turns),
            structure=structure.uri,
            utterances=tuple(
                (person, at) for person in sorted(order) for at in sorted(speech[person].used)
            ),
            room=room,
            noise=noise,
            snr=snr,
        )

    def _parts(self, people, rng: np.random.Generator) -> dict[str, Part]:
        """Who speaks, with which part of their speech."""
        if people is None:
            low, high = self.parameters.speakers
            if len(self.voices) < high:
                raise SimulationError(
                    f"{len(self.voices)} voices are too few for conversations of up to {high}: "
                    "lower `speakers`, or give more voices."
                )
            people = rng.choice(
                sorted(self.voices), int(rng.integers(low, high + 1)), replace=False
            ).tolist()
        elif not people:
            raise SimulationError("Nobody is to speak: `people` is empty.")
        parts = dict(people) if isinstance(people, Mapping) else dict.fromkeys(people, _ALL)
        if len(parts) < len(people):
            raise SimulationError(f"Somebody is named twice among the people: {list(people)}.")
        for person, (index, count) in parts.items():
            if person not in self.voices:
                raise SimulationError(f"There is no voice of {person!r}.")
            if not 0 <= index < count:
                raise SimulationError(f"{person} cannot speak with part {index} of {count}.")
        return parts

    def _excerpt(self, num_speakers: int, rng: np.random.Generator) -> TurnStructure:
        """A stretch of the first structure, in random order, that has one."""
        duration = round(float(rng.uniform(*self.parameters.duration)), 3)
        for index in rng.permutation(len(self.structures)):
            excerpt = self.structures[index].excerpt(
                duration, rng, num_speakers, self.parameters.min_speech
            )
            if excerpt is not None:
                return excerpt
        raise SimulationError(
            f"None of {len(self.structures)} turn structures has a stretch of {duration} s in "
            f"which exactly {num_speakers} people speak, each for {self.parameters.min_speech} s: "
            "change the number of people or `duration`, or give more structures."
        )

    def _background(
        self,
        noise: int,
        speech: np.ndarray,
        num_samples: int,
        snr: float,
        rng: np.random.Generator,
    ) -> np.ndarray:
        samples = background(load(self.noises[noise], f"Noise {noise}"), num_samples, rng)
        power = np.square(samples).mean()
        if power == 0:
            raise SimulationError(f"Noise {noise} is silent for {num_samples / SAMPLE_RATE:.1f} s.")
        return samples * np.float32(np.sqrt(np.square(speech).mean() / power) * _amplitude(-snr))


def plan_people(
    people: Sequence[str],
    num_conversations: int,
    speakers: tuple[int, int] = (2, 6),
    seed: int = 0,
) -> list[dict[str, Part]]:
    """Assign people to conversations, each to several, for the evaluation of speaker linking.

    Numbers of speakers are drawn; everybody is in as many conversations as anybody else, or in one
    more. The speech of each is divided among theirs: were the same words heard in two, they would
    be linked by what is said and how it was recorded.

    Parameters
    ----------
    people : sequence of str
    num_conversations : int
    speakers : (int, int)
        Range of the number of people in a conversation, inclusive.
    seed : int

    Returns
    -------
    plan : list of dict of str to Part
        One for each conversation: `people` of `Simulator.simulate`.

    Raises
    ------
    SimulationError
        If there are fewer people than may speak in one conversation, or too few conversations
        for everybody to speak in two.
    ConfigError
        If `speakers` is not a range.
    """
    low, high = speakers
    if not 1 <= low <= high:
        raise ConfigError(f"`speakers` is a range of at least 1 (low, high), not {speakers}.")
    people = sorted(set(people))
    if len(people) < high:
        raise SimulationError(
            f"{len(people)} people are too few for conversations of up to {high}: lower `speakers`."
        )
    rng = np.random.default_rng(seed)
    counts = np.zeros(len(people), int)
    cast = []
    for size in rng.integers(low, high + 1, num_conversations):
        # those who were in the fewest so far, by lot among equals
        order = np.lexsort([rng.random(len(people)), counts])[:size]
        cast.append([(people[person], int(counts[person])) for person in order])
        counts[order] += 1
    if counts.min() < 2:
        raise SimulationError(
            f"{num_conversations} conversations of {low} to {high} people are too few for "
            f"{len(people)} people to be in two each: plan more, or take fewer people."
        )
    total = dict(zip(people, counts.tolist(), strict=True))
    return [{person: (index, total[person]) for person, index in those} for those in cast]


def _choose(items: Sequence, probability: float, rng: np.random.Generator) -> int | None:
    """Index of one of the items, or None."""
    chosen = rng.random() < probability
    return int(rng.integers(len(items))) if items and chosen else None


def _amplitude(decibels: float) -> float:
    return 10.0 ** (decibels / 20)
