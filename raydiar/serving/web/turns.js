/**
 * Changes of a list of turns, {start, end, speaker: label, confidence?}: each gives a new list and
 * leaves the old one as it is, so that undoing is taking the old one again.
 */

export const SHORTEST = 0.05; // seconds of a turn that a person makes

/** In order, and of one speaker none that overlap. */
function tidy(turns) {
  const last = new Map(); // of each speaker
  const kept = [];
  for (const turn of [...turns].sort((a, b) => a.start - b.start || a.end - b.end)) {
    const at = last.get(turn.speaker);
    if (at !== undefined && kept[at].end >= turn.start) {
      if (turn.end > kept[at].end) kept[at] = { ...changed(kept[at]), end: turn.end };
      continue;
    }
    last.set(turn.speaker, kept.length);
    kept.push(turn);
  }
  return kept;
}

// what the machine was sure of is not what a person made of it
const changed = ({ start, end, speaker }) => ({ start, end, speaker });
const round = (seconds) => Math.round(1000 * seconds) / 1000;
const replace = (turns, old, ...news) => tidy(turns.flatMap((turn) => (turn === old ? news : [turn])));

export function setEdges(turns, turn, start, end) {
  return replace(turns, turn, { ...changed(turn), start: round(start), end: round(end) });
}

/** Two halves of one speaker, which do not grow together again: the first ends a moment before. */
export function split(turns, turn, seconds) {
  const [before, after] = [round(seconds - 0.005), round(seconds + 0.005)];
  if (before - turn.start < SHORTEST || turn.end - after < SHORTEST) return turns;
  return replace(turns, turn, { ...changed(turn), end: before }, { ...changed(turn), start: after });
}

export const remove = (turns, turn) => replace(turns, turn);

export const draw = (turns, start, end, speaker) =>
  tidy([...turns, { start: round(start), end: round(end), speaker }]);

export const give = (turns, turn, speaker) => replace(turns, turn, { ...changed(turn), speaker });

/** All turns of one speaker become another's. */
export const merge = (turns, from, into) =>
  tidy(turns.map((turn) => (turn.speaker === from ? { ...changed(turn), speaker: into } : turn)));

/** A label that nobody has. */
export function newLabel(labels) {
  for (let number = 0; ; number += 1) {
    const label = `SPEAKER_${String(number).padStart(2, "0")}`;
    if (!labels.includes(label)) return label;
  }
}

/** Stretches in which somebody speaks, none touching another. */
export function speech(turns) {
  const stretches = [];
  for (const { start, end } of turns) {
    const last = stretches.at(-1);
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else stretches.push({ start, end });
  }
  return stretches;
}
