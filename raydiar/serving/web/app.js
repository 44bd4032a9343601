/** The page: which view is shown, and what its parts tell each other. */

import { ApiError, call, forgetKey, hasKey, playableUrl, setKeyPrompt } from "./api.js";
import { choose, chosenFile, setUpChooser } from "./chooser.js";
import { byId, showText } from "./dom.js";
import { bytes } from "./format.js";
import { promptForKey } from "./key_prompt.js";
import { inWords, withoutKey } from "./messages.js";
import { showRecent } from "./recent.js";
import { clearResult, showResult } from "./result.js";
import { findJob, remember } from "./store.js";
import { Submission, watch } from "./watching.js";

const UNNAMED = "Recording"; // of a link that came from another browser
const files = new Map(); // of jobs that began in this tab
let view = new AbortController(); // ends what the last view was doing
let server = null; // features of the server, once it has told them

// Views.

function enter(name, title) {
  view.abort();
  view = new AbortController();
  clearResult();
  notify(null);
  for (const id of ["start", "progress", "result"]) byId(id).hidden = id !== name;
  byId("new").hidden = name === "start";
  document.title = `${title}: raydiar`;
  scrollTo(0, 0);
  byId(`${name}-title`).focus({ preventScroll: true });
  return view.signal;
}

function showStart() {
  const signal = enter("start", "Who spoke when");
  showRecent(signal);
}

function showProgress(name) {
  const signal = enter("progress", name);
  byId("progress-title").textContent = name;
  byId("cancel").disabled = false;
  return signal;
}

/** Tell of a problem, with a way to go on where there is one. */
function notify(text, retry = null) {
  const notice = byId("notice");
  const button = notice.querySelector("button");
  notice.querySelector("p").textContent = text ?? "";
  notice.hidden = !text;
  button.hidden = !retry;
  button.onclick = () => {
    notify(null);
    retry();
  };
}

// Screen readers hear phases and quarters, not every percent.
function announce(text) {
  if (byId("announce").textContent !== text) byId("announce").textContent = text;
}

function setPhase(phase, percent, amount = "") {
  byId("phase").textContent = phase;
  byId("amount").textContent = amount;
  const bar = byId("bar");
  if (percent === null) bar.removeAttribute("value");
  else bar.value = percent;
  const quarter = Math.floor((percent ?? 0) / 25) * 25;
  announce(quarter ? `${phase}: ${quarter} %` : phase);
}

// From a file to its result.

async function submit(submission) {
  const { file } = submission;
  const signal = showProgress(file.name);
  byId("new").hidden = true; // what is being sent is left by Cancel only
  const total = bytes(file.size);
  const tell = (sent) => {
    const percent = file.size ? (100 * sent) / file.size : 100;
    setPhase("Sending the recording", percent, `${bytes(sent)} of ${total}`);
  };
  tell(0);
  byId("cancel").onclick = () => {
    showStart(); // which ends the upload
    choose(file);
  };
  const warn = (event) => event.preventDefault();
  addEventListener("beforeunload", warn);
  try {
    await features();
    if (file.size > server.maxBytes) {
      throw new ApiError(413, `It has ${total}, and ${bytes(server.maxBytes)} are allowed.`);
    }
    const id = await submission.send(tell, signal);
    remember(id, { name: file.name, status: "created" });
    files.set(id, file);
    choose(null);
    location.hash = `job=${id}`;
  } catch (error) {
    if (signal.aborted) return;
    showStart();
    choose(file);
    const inVain = [400, 403, 413].includes(error.status); // the same would be refused again
    notify(inWords(error), inVain ? null : () => submit(submission));
  } finally {
    removeEventListener("beforeunload", warn);
  }
}

async function openJob(id) {
  const signal = showProgress(findJob(id)?.name ?? UNNAMED);
  setPhase("Asking the server", null);
  byId("cancel").onclick = () => cancel(id);
  try {
    await features();
    const job = await watch(id, showNews, signal);
    if (findJob(id)) remember(id, { status: job.status });
    if (job.status === "succeeded") open(job);
    else ended(job);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 404 && findJob(id)) remember(id, { status: "gone" });
    leave();
    notify(inWords(error), error.status === 404 ? null : () => (location.hash = `job=${id}`));
  }
}

function showNews(job) {
  if (job === null) {
    setPhase("The server does not answer. Trying again", null);
  } else if (byId("cancel").disabled) {
    setPhase("Canceling", null);
  } else if (job.status === "running") {
    const percent = job.progress ?? 0;
    setPhase("Finding the speakers", percent, `${Math.round(percent)} %`);
    document.title = `${Math.round(percent)} %, ${byId("progress-title").textContent}: raydiar`;
  } else {
    setPhase("Waiting until the server is free", null);
  }
}

function ended(job) {
  const file = files.get(job.jobId);
  leave();
  if (file) choose(file);
  if (job.status === "canceled") notify("Canceled.");
  else notify(`This recording could not be done. ${withoutKey(job.output?.error ?? "")}`.trim());
}

function open({ jobId, media, status, output }) {
  const name = findJob(jobId)?.name ?? (media.split("/").at(-1) || UNNAMED);
  remember(jobId, { name, status });
  enter("result", name);
  announce("The speakers are found.");
  showResult({
    job: findJob(jobId) ?? { id: jobId, name, names: {} },
    output,
    file: files.get(jobId) ?? null,
    findUrl: media.startsWith("media://") ? () => playableUrl(media) : null,
    canSearch: server.search,
  });
}

async function cancel(id) {
  byId("cancel").disabled = true;
  setPhase("Canceling", null);
  byId("progress-title").focus(); // the button had the focus
  try {
    await call("POST", `v1/jobs/${id}/cancel`);
  } catch (error) {
    byId("cancel").disabled = false;
    notify(inWords(error));
  }
}

/** Go to the start without going through the address, so that a notice stays. */
function leave() {
  history.replaceState(null, "", "#");
  showStart();
}

/** What this server can do; asks for a key where it wants one. */
async function features() {
  server ??= await call("GET", "v1/test");
  byId("forget-key").hidden = !hasKey();
}

function route() {
  const id = /^#job=([\w-]+)$/.exec(location.hash)?.[1];
  if (id) openJob(id);
  else showStart();
}

setKeyPrompt(promptForKey);
setUpChooser(
  (file, bounds) => submit(new Submission(file, bounds)),
  (file) => {
    if (!byId("progress").hidden) return; // what is under way goes on
    if (byId("start").hidden) location.hash = "";
    choose(file);
  },
);
byId("forget-key").addEventListener("click", () => {
  forgetKey();
  byId("forget-key").hidden = true;
  announce("The key is forgotten.");
});
addEventListener("hashchange", route);
route();
features().catch((error) => {
  if (error.status !== 401) notify(inWords(error));
});
