/** A job's output as the page uses it: speakers, turns of each, and how much each speaks. */

/**
 * Read the output of a diarization.
 *
 * @returns {{speakers: {label, turns, seconds, share, voiceprint}[], turns: object[],
 *   exclusive: object[], overlaps: object[], end: number, seconds: number}} turns are {start, end, speaker: index,
 *   confidence: 0..100 or null, source: as it came}, by start; `seconds` is of speech, counted per
 *   person; `overlaps` are {start, end, speakers}, where two or more speak
 */
export function readOutput(output) {
  const labels = [...new Set(output.diarization.map((turn) => turn.speaker))].sort();
  const read = (turns) =>
    turns
      .map((source) => ({
        start: source.start,
        end: source.end,
        speaker: labels.indexOf(source.speaker),
        confidence: source.confidence?.[source.speaker] ?? null,
        source,
      }))
      .sort((a, b) => a.start - b.start || a.end - b.end);
  const turns = read(output.diarization);
  const exclusive = read(output.exclusiveDiarization ?? output.diarization);
  const total = sum(turns);
  const speakers = labels.map((label, index) => {
    const own = turns.filter((turn) => turn.speaker === index);
    return {
      label,
      turns: own,
      seconds: sum(own),
      share: total ? sum(own) / total : 0,
      voiceprint: output.speakerVoiceprints?.[label] ?? null,
    };
  });
  const end = turns.reduce((latest, turn) => Math.max(latest, turn.end), 0);
  return { speakers, turns, exclusive, overlaps: overlapsOf(turns), end, seconds: total };
}

function overlapsOf(turns) {
  const edges = turns.flatMap(({ start, end, speaker }) => [
    { at: start, speaker, begins: true },
    { at: end, speaker, begins: false },
  ]);
  edges.sort((a, b) => a.at - b.at || a.begins - b.begins); // who ends makes room first
  const active = new Set();
  const overlaps = [];
  let since = 0;
  for (const { at, speaker, begins } of edges) {
    if (active.size > 1 && at > since) {
      overlaps.push({ start: since, end: at, speakers: [...active].sort((a, b) => a - b) });
    }
    if (begins) active.add(speaker);
    else active.delete(speaker);
    since = at;
  }
  return overlaps;
}

const sum = (turns) => turns.reduce((total, turn) => total + turn.end - turn.start, 0);

/** Index of the first element for which `isAfter` is true, in a list sorted that way. */
export function firstIndex(list, isAfter) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isAfter(list[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
