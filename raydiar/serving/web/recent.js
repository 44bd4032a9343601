/** The list of this browser's jobs, as far as the server still keeps them. */

import { call } from "./api.js";
import { byId, make } from "./dom.js";
import { clock, moment } from "./format.js";
import { forget, jobs, remember } from "./store.js";

const STATES = {
  created: "waiting",
  pending: "waiting",
  running: "running",
  succeeded: "done",
  failed: "failed",
  canceled: "canceled",
  gone: "no longer kept by the server",
};
const OPEN = ["created", "pending", "running"];

/** Show what is remembered at once, then ask the server about jobs that may have changed. */
export async function showRecent(signal) {
  render();
  if (!jobs().length) return;
  let answer;
  try {
    answer = await call("GET", "v1/jobs?limit=1000", undefined, signal);
  } catch {
    return; // no news
  }
  if (signal.aborted) return;
  const states = new Map(answer.items.map((job) => [job.jobId, job.status]));
  for (const { id, status } of jobs()) {
    // a job that is not listed is gone, unless the list goes on
    const now = states.get(id) ?? (answer.nextCursor ? status : "gone");
    if (now !== status) remember(id, { status: now });
  }
  render();
}

function render() {
  const list = byId("recent").querySelector("ul");
  const known = jobs();
  byId("recent").hidden = known.length === 0;
  const focused = document.activeElement?.dataset?.job;
  list.replaceChildren(
    ...known.map((job) => {
      const open = job.status === "succeeded" || OPEN.includes(job.status);
      const name = open ? make("a", { href: `#job=${job.id}` }, job.name) : make("span", {}, job.name);
      name.dataset.job = job.id;
      const facts = [
        moment(job.created),
        job.duration && clock(job.duration),
        job.status !== "succeeded" && STATES[job.status],
      ];
      const remove = make("button", {
        type: "button",
        class: "link",
        "aria-label": `Forget ${job.name}`,
        title: "Forget in this browser",
        click: () => {
          forget(job.id);
          render();
          byId("recent-title").focus();
        },
      }, "Forget");
      const text = facts.filter(Boolean).join(" · ");
      return make("li", {}, name, make("span", { class: "quiet" }, text), remove);
    }),
  );
  if (focused) list.querySelector(`a[data-job="${CSS.escape(focused)}"]`)?.focus();
}
