/**
 * What this browser remembers: its recent jobs, and for each the file's name and the names given to
 * speakers. A browser that forbids storage just remembers nothing.
 */

const STORED_JOBS = "raydiar.jobs";
const MOST = 50;

/** Jobs, newest first: {id, name, created (ms), status, duration, names, outline}. */
export function jobs() {
  try {
    const list = JSON.parse(localStorage.getItem(STORED_JOBS) ?? "[]");
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

export const findJob = (id) => jobs().find((job) => job.id === id);

/** Change what is known of a job, or remember a new one. */
export function remember(id, changes) {
  const rest = jobs().filter((job) => job.id !== id);
  const job = { id, created: Date.now(), names: {}, ...findJob(id), ...changes };
  write([job, ...rest].sort((a, b) => b.created - a.created).slice(0, MOST));
}

export function forget(id) {
  write(jobs().filter((job) => job.id !== id));
}

function write(list) {
  try {
    localStorage.setItem(STORED_JOBS, JSON.stringify(list));
  } catch {
    // forbidden or full: the page works without
  }
}
