"""Simulated conversations: real turns, other people's voices, rooms and noise (no torch).

    simulator = Simulator(voices, read_structures(paths), rooms, noises)
    simulator.simulate(seed=1).write("folder")

Pauses, interruptions and overlaps are those of a real conversation (its RTTM); who speaks, the
room, levels and noise are drawn from the seed. The labels are true by construction: turns begin
and end with speech, long pauses inside utterances are shortened, and reverberation begins with
the direct sound. What is given up is that people answer each other, or end their sentences.
"""

from raydiar.simulation.conversation import Conversation, SimulationParameters
from raydiar.simulation.room import Room
from raydiar.simulation.simulator import Simulator, plan_people
from raydiar.simulation.structure import TurnStructure, read_structures

__all__ = [
    "Conversation",
    "Room",
    "SimulationParameters",
    "Simulator",
    "TurnStructure",
    "plan_people",
    "read_structures",
]
