/** The result's view: timeline, player, speakers and downloads of one recording. */

import { readOutput } from "./conversation.js";
import { byId, showText } from "./dom.js";
import { inRttm, save, toJson, toRttm } from "./downloads.js";
import { clock, percent, plural, spoken } from "./format.js";
import { hideMatches, showMatches } from "./matches.js";
import { Player } from "./player.js";
import { showSpeakers } from "./speakers.js";
import { remember } from "./store.js";
import { Timeline } from "./timeline.js";
import { fromOutline, readPeaks, toOutline } from "./waveform.js";

let shown = null; // {job, output, conversation, duration}

const player = new Player({
  onTime(seconds) {
    timeline.setTime(seconds, player.playing);
    byId("time").textContent = clock(seconds);
    byId("now").textContent = speakingAt(seconds);
  },
  onState(playing) {
    byId("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    byId("play").classList.toggle("playing", playing);
  },
  onLength(seconds) {
    if (shown) setDuration(seconds);
  },
  onProblem(text) {
    showText(byId("sound-problem"), text);
  },
});

const timeline = new Timeline(byId("timeline"), {
  onTurn: (turn) => player.play(turn.start, turn.end),
  onToggle: (turn) => (player.playing ? player.pause() : player.play(turn.start, turn.end)),
  onSeek: (seconds) => player.seek(seconds),
});

byId("play").addEventListener("click", () => (player.playing ? player.pause() : player.play()));
byId("zoom-in").addEventListener("click", () => timeline.zoom(2));
byId("zoom-out").addEventListener("click", () => timeline.zoom(0.5));
byId("zoom-fit").addEventListener("click", () => timeline.zoom(0));
byId("matches-close").addEventListener("click", () => {
  hideMatches();
  byId("speakers-title").focus();
});
byId("rttm").addEventListener("click", () => {
  const { job, output } = shown;
  save(job.name, ".rttm", toRttm(job.name, output, nameOfLabel), "text/plain");
});
byId("json").addEventListener("click", () => {
  const { job, output } = shown;
  save(job.name, ".json", toJson(job, output, nameOfLabel), "application/json");
});

/** Leave the result: stop the sound. */
export function clearResult() {
  shown = null;
  player.clear();
  timeline.clear();
  hideMatches();
}

/**
 * @param {{job, output, file, findUrl, canSearch}} result `job` as remembered (store.js), `file`
 *   where it was chosen in this tab, `findUrl` gives an address of the sound otherwise
 */
export async function showResult({ job, output, file, findUrl, canSearch }) {
  const conversation = readOutput(output);
  const duration = Math.max(job.duration ?? 0, conversation.end) || 1;
  shown = { job, output, conversation, duration };
  byId("result-title").textContent = job.name;
  showText(byId("warning"), output.warning);
  showText(byId("name-problem"), null);
  showText(byId("sound-problem"), null);
  byId("timeline").hidden = byId("timeline-help").hidden = conversation.turns.length === 0;
  timeline.show(conversation, duration, nameOf);
  setDuration(duration);
  const onSearch = (index) => {
    const { voiceprint } = conversation.speakers[index];
    return showMatches(nameOf(index), voiceprint);
  };
  showSpeakers(byId("speakers"), conversation.speakers, {
    nameOf,
    onRename: rename,
    onSearch: canSearch ? onSearch : null,
  });
  if (file) player.useFile(file);
  else if (findUrl) player.useServer(findUrl);
  byId("play").disabled = !file && !findUrl;
  if (job.outline) timeline.setPeaks(fromOutline(job.outline));
  else if (file) await showWaveform(file);
}

async function showWaveform(file) {
  const { job } = shown;
  const peaks = await readPeaks(file, shown.duration);
  if (!peaks || shown?.job !== job) return;
  timeline.setPeaks(peaks);
  remember(job.id, { outline: toOutline(peaks) });
}

function setDuration(seconds) {
  const { job, conversation } = shown;
  shown.duration = Math.max(seconds, conversation.end);
  byId("length").textContent = clock(shown.duration);
  const parts = [
    plural(conversation.speakers.length, "speaker", "speakers"),
    `${spoken(shown.duration)} long`,
    `${spoken(conversation.seconds)} of speech`,
  ];
  byId("summary").textContent = conversation.turns.length
    ? parts.join(" · ")
    : "Nobody speaks in this recording.";
  timeline.setDuration(shown.duration);
  remember(job.id, { duration: shown.duration });
}

// Names.

const nameOfLabel = (label) => shown.job.names[label] ?? label;
const nameOf = (index) => nameOfLabel(shown.conversation.speakers[index].label);

/** Take a new name; gives the one that stands. */
function rename(index, text) {
  const { job, conversation } = shown;
  const { label } = conversation.speakers[index];
  const name = text.trim() || label;
  // as in RTTM, where white space does not tell two names apart
  const taken = conversation.speakers.some(
    (_, other) => other !== index && inRttm(nameOf(other)) === inRttm(name),
  );
  const problem = `Another speaker is called ${name} already. Files could not tell the two apart.`;
  showText(byId("name-problem"), taken ? problem : null);
  if (taken) return nameOf(index);
  job.names = { ...job.names, [label]: name };
  remember(job.id, { names: job.names });
  timeline.rename();
  byId("now").textContent = speakingAt(player.time);
  return name;
}

/** Who speaks at a time, and how sure that is. */
function speakingAt(seconds) {
  if (!shown) return "";
  return shown.conversation.turns
    .filter((turn) => turn.start <= seconds && seconds < turn.end)
    .map(({ speaker, confidence }) =>
      confidence === null ? nameOf(speaker) : `${nameOf(speaker)} (${percent(confidence / 100)} sure)`,
    )
    .join(" and ");
}
