/** From a file to a job, and from a job to its end. */

import { call, upload } from "./api.js";

const OPTIONS = {
  exclusive: true,
  turnLevelConfidence: true,
  confidence: true,
  speakerVoiceprints: true,
};
const OPEN = ["created", "pending", "running"];

/** A file under way to the server; when a step failed, `send` goes on from there. */
export class Submission {
  constructor(file, bounds) {
    this.file = file;
    this.bounds = bounds;
    this.media = `media://page/${randomName()}/${keyName(file.name)}`;
    this.uploaded = false;
  }

  /** Upload and queue; `onProgress` gets bytes sent. Gives the job's id. */
  async send(onProgress, signal) {
    if (!this.uploaded) {
      const { url } = await call("POST", "v1/media/input", { url: this.media }, signal);
      await upload(url, this.file, onProgress, signal);
      this.uploaded = true;
    }
    const body = { url: this.media, ...OPTIONS, ...this.bounds };
    try {
      const { jobId } = await call("POST", "v1/diarize", body, signal);
      return jobId;
    } catch (error) {
      if (error.status === 404) this.uploaded = false; // it waited for too long
      throw error;
    }
  }
}

// crypto.randomUUID exists over HTTPS only
function randomName() {
  const numbers = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(numbers, (number) => number.toString(16).padStart(2, "0")).join("");
}

/** What a key may hold of a file's name, so that the server's messages name it. */
function keyName(name) {
  const plain = name.normalize("NFKD").replace(/[^A-Za-z0-9._-]+/g, "-");
  return plain.replace(/^[.-]+/, "").slice(-80) || "recording";
}

/** Follow a job until it has ended; `onNews` gets the server's answers, or null while it is away. */
export async function watch(id, onNews, signal) {
  for (let asked = 0; ; asked += 1) {
    let wait = Math.min(3, 0.5 + asked / 20);
    try {
      const job = await call("GET", `v1/jobs/${id}`, undefined, signal);
      if (!OPEN.includes(job.status)) return job;
      onNews(job);
    } catch (error) {
      const passing = error.status === 0 || error.status === 429 || error.status >= 500;
      if (signal.aborted || !passing) throw error;
      wait = error.retryAfter ?? 5;
      onNews(null);
    }
    await pause(wait, signal);
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
