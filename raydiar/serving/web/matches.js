/** Where else a voice speaks: what the server's index of voiceprints answers. */

import { call } from "./api.js";
import { byId, make } from "./dom.js";
import { clock, percent, spoken } from "./format.js";
import { inWords } from "./messages.js";

const MOST = 10;
const MOST_TIMES = 5;
const LEAST = 0.1; // probability: an index always has something that is nearest

let search = null;

export function hideMatches() {
  search?.abort();
  byId("matches").hidden = true;
}

/** Search for a voice, and show what is found. */
export async function showMatches(name, voiceprint) {
  hideMatches();
  search = new AbortController();
  const { signal } = search;
  const state = byId("matches-state");
  const list = byId("matches").querySelector("ol");
  byId("matches-title").textContent = `Where else ${name} speaks`;
  state.textContent = "Searching…";
  list.replaceChildren();
  byId("matches").hidden = false;
  byId("matches-title").focus();
  try {
    const body = { voiceprint, k: MOST, includeTurns: true };
    const { results } = await call("POST", "v1/search", body, signal);
    const [{ matches }] = results;
    const likely = matches.filter((match) => (match.probability ?? 1) >= LEAST);
    state.textContent = likely.length ? "" : "Nobody in the index sounds like this.";
    list.replaceChildren(...likely.map(item));
  } catch (error) {
    if (!signal.aborted) state.textContent = inWords(error);
  }
}

function item(match) {
  const times = [...new Set((match.turns ?? []).map((turn) => clock(turn.start)))];
  const more = times.length - MOST_TIMES;
  const at = times.slice(0, MOST_TIMES).join(", ") + (more > 0 ? ` and ${more} more` : "");
  const when = at ? `at ${at}` : `${spoken(match.seconds)} of speech`;
  return make(
    "li",
    {},
    make("span", { class: "match-name" }, match.recordingId),
    make("span", { class: "quiet" }, `${match.speaker} · ${when}`),
    make("span", {}, howSure(match)),
  );
}

function howSure({ probability, score }) {
  if (probability == null) return `similarity ${score.toFixed(2)}`; // no calibration
  return probability > 0.99 ? "over 99\u00a0% sure" : `${percent(probability)} sure`;
}
