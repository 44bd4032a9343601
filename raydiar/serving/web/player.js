/**
 * Plays a recording, or one turn of it: from the dropped file, or after a reload from the server by
 * a signed URL, which is asked for when it is first needed and again when it has expired.
 */

import { inWords } from "./messages.js";

const FRESH = 10_000; // ms in which a new URL has surely not expired

export class Player {
  /**
   * @param {{onTime, onState, onLength, onProblem}} listeners `onTime` gets seconds, `onState`
   *   whether it plays, `onLength` the recording's seconds, `onProblem` a text or null
   */
  constructor(listeners) {
    this.listeners = listeners;
    this.audio = new Audio();
    this.audio.preload = "auto";
    this.stopAt = Infinity;
    this.clear();
    const { audio } = this;
    audio.addEventListener("play", () => {
      this.listeners.onState(true);
      this.#follow();
    });
    audio.addEventListener("pause", () => this.listeners.onState(false));
    audio.addEventListener("timeupdate", () => this.#tick()); // also while the tab is hidden
    audio.addEventListener("seeked", () => this.#tick());
    audio.addEventListener("durationchange", () => {
      if (Number.isFinite(audio.duration)) this.listeners.onLength(audio.duration);
    });
    audio.addEventListener("error", () => this.#failed());
  }

  get playing() {
    return !this.audio.paused;
  }

  get time() {
    return this.wanted ?? this.audio.currentTime;
  }

  /** Forget the recording. */
  clear() {
    this.audio.pause();
    this.audio.removeAttribute("src");
    if (this.blobUrl) URL.revokeObjectURL(this.blobUrl);
    this.blobUrl = null;
    this.findUrl = null;
    this.wanted = null; // position for when there is sound
    this.foundAt = 0;
    this.stopAt = Infinity;
  }

  useFile(file) {
    this.clear();
    this.blobUrl = URL.createObjectURL(file);
    this.audio.src = this.blobUrl;
  }

  /** Take the sound from an address that an async function gives. */
  useServer(findUrl) {
    this.clear();
    this.findUrl = findUrl;
  }

  /** Play from `start` (seconds), up to `end` where given. */
  async play(start = this.time, end = Infinity) {
    this.listeners.onProblem(null);
    this.stopAt = end;
    this.wanted = start;
    if (!this.audio.getAttribute("src") && !(await this.#load())) return;
    this.#goTo(this.wanted ?? start);
    try {
      await this.audio.play();
    } catch (error) {
      // AbortError: paused, or another source came; a broken source fires "error" as well
      if (error.name === "NotAllowedError") this.listeners.onProblem("Press play once more.");
    }
  }

  pause() {
    this.audio.pause();
  }

  /** 1 as it was spoken, 2 twice as fast. */
  setSpeed(speed) {
    this.audio.playbackRate = this.audio.defaultPlaybackRate = speed;
  }

  /** Go on from another place, without a stop where the last turn would have ended. */
  jump(seconds) {
    this.audio.currentTime = seconds;
  }

  seek(seconds) {
    this.stopAt = Infinity;
    this.wanted = seconds;
    if (this.audio.getAttribute("src")) this.#goTo(seconds);
    this.listeners.onTime(seconds);
  }

  #goTo(seconds) {
    this.audio.currentTime = seconds; // before the metadata are there: where it will start
    this.wanted = null;
  }

  async #load() {
    if (!this.findUrl) return false;
    const find = this.findUrl;
    try {
      const url = await find();
      if (this.findUrl !== find) return false; // another recording by now
      this.audio.src = url;
      this.foundAt = Date.now();
      return true;
    } catch (error) {
      const gone = error.status === 404 || error.status === 410;
      const text = gone ? "The server no longer keeps this recording's sound." : inWords(error);
      this.listeners.onProblem(text);
      return false;
    }
  }

  #failed() {
    if (!this.audio.getAttribute("src")) return; // cleared
    const time = this.audio.currentTime;
    const canAskAgain = this.findUrl && Date.now() - this.foundAt > FRESH;
    this.audio.removeAttribute("src");
    this.listeners.onState(false);
    if (canAskAgain) this.play(time, this.stopAt);
    else this.listeners.onProblem("This browser cannot play the recording. The result is complete.");
  }

  #follow() {
    if (!this.playing) return;
    this.#tick();
    requestAnimationFrame(() => this.#follow());
  }

  #tick() {
    if (this.wanted !== null) return;
    const time = this.audio.currentTime;
    if (this.playing && time >= this.stopAt) {
      this.audio.pause();
      this.listeners.onTime(Math.min(time, this.stopAt));
    } else {
      this.listeners.onTime(time);
    }
  }
}
