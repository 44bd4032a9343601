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
  for (const job of jobs()) {
    if (job.status === "gone" || signal.aborted) continue;
    try {
      const { status } = await call("GET", `v1/jobs/${job.id}`, undefined, signal);
      if (status !== job.status) remember(job.id, { status });
    } catch (error) {
      if (signal.aborted || error.status !== 404) return; // no server, no news
      remember(job.id, { status: "gone" });
    }
    if (!signal.aborted) render();
  }
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
