/** The result's view: timeline, player, speakers and downloads of one recording. */

import { firstIndex, readOutput } from "./conversation.js";
import { byId, make, showText } from "./dom.js";
import { Corrections } from "./corrections.js";
import { fetchExport, inRttm, save, toJson, toRttm } from "./downloads.js";
import { clock, percent, plural, spoken } from "./format.js";
import { setUpKeys } from "./keys.js";
import { hideMatches, showMatches } from "./matches.js";
import { Player } from "./player.js";
import { showSpeakers } from "./speakers.js";
import { remember } from "./store.js";
import { Timeline } from "./timeline.js";
import * as edit from "./turns.js";
import { fetchPeaks, fromOutline, readPeaks, toOutline } from "./waveform.js";
import { inWords } from "./messages.js";

const STEP = 5; // seconds that J and L go back and on
const GAP = 0.3; // seconds of silence that are worth skipping

let shown = null; // {job, output, corrections, conversation, speech, duration, canSearch}
let only = null; // label of the one speaker who is played

const player = new Player({
  onTime(seconds) {
    if (skip(seconds)) return;
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
  onEdges: (turn, start, end) => change(edit.setEdges(turns(), turn.source, start, end)),
  onDraw(index, start, end) {
    const { label } = shown.conversation.speakers[index];
    change(edit.draw(turns(), start, end, label));
  },
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
  const { job } = shown;
  save(job.name, ".rttm", toRttm(job.name, corrected(), nameOfLabel), "text/plain");
});
byId("json").addEventListener("click", () => {
  const { job } = shown;
  save(job.name, ".json", toJson(job, corrected(), nameOfLabel), "application/json");
});
byId("more").addEventListener("change", async () => {
  const form = byId("more").value;
  byId("more").value = "";
  const { job, corrections } = shown;
  try {
    // the server makes the file of what it has
    if (corrections.pristine && Object.keys(job.names).length) {
      corrections.change({ names: { ...job.names } });
    }
    await corrections.save();
    const [ending, text, type] = await fetchExport(job, form);
    save(job.name, ending, text, type);
  } catch (error) {
    showText(byId("sound-problem"), inWords(error));
  }
});
byId("speed").addEventListener("change", () => player.setSpeed(Number(byId("speed").value)));
byId("edit").addEventListener("click", () => setEditing(byId("edit-bar").hidden));
byId("undo").addEventListener("click", () => shown.corrections.undo());
byId("redo").addEventListener("click", () => shown.corrections.redo());
byId("split").addEventListener("click", splitHere);
byId("remove").addEventListener("click", removeChosen);
byId("give").addEventListener("change", () => {
  const into = byId("give").value;
  byId("give").value = "";
  if (into) giveChosen(into === "new" ? edit.newLabel(labels()) : into);
});
byId("machine").addEventListener("click", () => {
  change(shown.corrections.machine.turns);
});
addEventListener("beforeunload", (event) => {
  if (shown?.corrections.dirty) event.preventDefault();
});

setUpKeys({
  active: () => shown !== null && !byId("result").hidden,
  editing: () => !byId("edit-bar").hidden,
  toggle: () => (player.playing ? player.pause() : player.play()),
  back: () => player.seek(Math.max(0, player.time - STEP)),
  on: () => player.seek(Math.min(shown.duration, player.time + STEP)),
  undo: () => shown.corrections.undo(),
  redo: () => shown.corrections.redo(),
  split: splitHere,
  remove: removeChosen,
  start: () => edgeHere("start"),
  end: () => edgeHere("end"),
  give(number) {
    const speaker = shown.conversation.speakers[number - 1];
    if (speaker) giveChosen(speaker.label);
  },
});

/** Leave the result: stop the sound, and save what is not saved. */
export function clearResult() {
  shown?.corrections.end();
  shown = null;
  only = null;
  setEditing(false);
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
  const machine = { turns: output.diarization, names: job.names };
  const corrections = new Corrections(job.id, machine, { onChange: refresh, onState: tellState });
  shown = { job, output, corrections, conversation, duration, canSearch };
  shown.speech = edit.speech(conversation.turns);
  byId("result-title").textContent = job.name;
  showText(byId("warning"), output.warning);
  showText(byId("name-problem"), null);
  showText(byId("sound-problem"), null);
  tellState("", false);
  player.setSpeed(Number(byId("speed").value));
  timeline.show(conversation, duration, nameOf);
  setDuration(duration);
  showTable();
  if (file) player.useFile(file);
  else if (findUrl) player.useServer(findUrl);
  byId("play").disabled = !file && !findUrl;
  await Promise.all([loadCorrections(corrections), showWaveform(file)]);
}

async function loadCorrections(corrections) {
  try {
    await corrections.load();
  } catch (error) {
    if (shown?.corrections === corrections) tellState(inWords(error), true);
  }
}

function showTable() {
  const { conversation, canSearch } = shown;
  const onSearch = (index) => {
    const { voiceprint } = conversation.speakers[index];
    return showMatches(nameOf(index), voiceprint);
  };
  showSpeakers(byId("speakers"), conversation.speakers, {
    nameOf,
    onRename: rename,
    onSearch: canSearch ? onSearch : null,
    only,
    onOnly(label) {
      only = only === label ? null : label;
      showTable();
      byId("speakers").querySelector(`[data-label="${CSS.escape(label)}"]`)?.focus();
      if (only && !player.playing) player.play();
    },
  });
  const options = conversation.speakers.map(({ label }, index) =>
    make("option", { value: label }, nameOf(index)),
  );
  byId("give").replaceChildren(
    make("option", { value: "" }, "Give to…"),
    ...options,
    make("option", { value: "new" }, "A new speaker"),
  );
}

/** The server's peaks, those that this browser remembers, or those that it can find itself. */
async function showWaveform(file) {
  const { job } = shown;
  if (job.outline) timeline.setPeaks(fromOutline(job.outline));
  try {
    const peaks = await fetchPeaks(job.id);
    if (shown?.job.id !== job.id) return;
    if (peaks) {
      setDuration(peaks.seconds);
      return timeline.setPeaks(peaks);
    }
  } catch {
    // the turns are there without it
  }
  if (file && !job.outline && shown?.job.id === job.id) await readWaveform(file);
}

// Corrections.

const turns = () => shown.corrections.turns;
const labels = () => [...new Set(turns().map((turn) => turn.speaker))];

/** The output as it was corrected. */
function corrected() {
  const { output, corrections } = shown;
  if (corrections.turns === output.diarization) return output;
  const { confidence, exclusiveDiarization, ...rest } = output;
  return { ...rest, diarization: corrections.turns };
}

function change(news) {
  shown.corrections.change({ turns: news });
}

/** Show turns and names as they are now. */
function refresh() {
  if (!shown) return;
  const { corrections, job } = shown;
  job.names = { ...corrections.names };
  remember(job.id, { names: job.names });
  shown.conversation = readOutput(corrected());
  shown.speech = edit.speech(shown.conversation.turns);
  timeline.update(shown.conversation);
  setDuration(shown.duration);
  showTable();
  byId("undo").disabled = corrections.done.length === 0;
  byId("redo").disabled = corrections.undone.length === 0;
  byId("machine").disabled = corrections.turns === corrections.machine.turns;
  byId("now").textContent = speakingAt(player.time);
}

function tellState(text, isProblem) {
  byId("saved").textContent = text;
  byId("saved").classList.toggle("problem", isProblem);
}

function setEditing(editing) {
  byId("edit-bar").hidden = byId("edit-help").hidden = !editing;
  byId("edit").setAttribute("aria-pressed", String(editing));
  byId("edit").textContent = editing ? "Done correcting" : "Correct the turns";
  timeline.setEditing(editing);
  if (!shown) return;
  byId("undo").disabled = shown.corrections.done.length === 0;
  byId("redo").disabled = shown.corrections.undone.length === 0;
  byId("machine").disabled = shown.corrections.turns === shown.corrections.machine.turns;
}

function splitHere() {
  const chosen = timeline.chosen?.source;
  const at = player.time;
  const under = chosen && chosen.start < at && at < chosen.end;
  const turn = under ? chosen : turns().find(({ start, end }) => start < at && at < end);
  if (turn) change(edit.split(turns(), turn, at));
}

function removeChosen() {
  if (timeline.chosen) change(edit.remove(turns(), timeline.chosen.source));
}

function giveChosen(label) {
  if (timeline.chosen) change(edit.give(turns(), timeline.chosen.source, label));
}

/** The chosen turn begins, or ends, where the playhead is. */
function edgeHere(edge) {
  const turn = timeline.chosen?.source;
  if (!turn) return;
  const { start, end } = { ...turn, [edge]: player.time };
  if (end - start >= edit.SHORTEST) change(edit.setEdges(turns(), turn, start, end));
}

/** Where nothing is to be heard, go on to where something is; tells whether it did. */
function skip(seconds) {
  if (!shown || !player.playing || player.stopAt !== Infinity) return false;
  const speaker = shown.conversation.speakers.find(({ label }) => label === only);
  if (!speaker && !byId("skip").checked) return false;
  const heard = speaker?.turns ?? shown.speech;
  const next = heard[firstIndex(heard, (stretch) => stretch.end > seconds)];
  if (!next) player.pause();
  else if (next.start - seconds > GAP) player.jump(next.start);
  else return false;
  return true;
}

async function readWaveform(file) {
  const { job } = shown;
  const peaks = await readPeaks(file, shown.duration);
  if (!peaks || shown?.job.id !== job.id) return;
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
  byId("merge").hidden = !taken;
  if (taken) {
    const into = conversation.speakers.find(
      (_, other) => other !== index && inRttm(nameOf(other)) === inRttm(name),
    );
    byId("merge").textContent = `Make them one speaker, ${name}`;
    byId("merge").onclick = () => {
      byId("merge").hidden = true;
      showText(byId("name-problem"), null);
      change(edit.merge(turns(), label, into.label));
      byId("speakers-title").focus();
    };
    return nameOf(index);
  }
  job.names = { ...job.names, [label]: name };
  remember(job.id, { names: job.names });
  const { corrections } = shown;
  if (corrections.pristine) corrections.keepNames(job.names);
  else corrections.change({ names: job.names }); // beside the turns, on the server
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
