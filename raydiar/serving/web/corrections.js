/** What a person changed of a result: done, undone, and saved on the server as versions. */

import { call } from "./api.js";

const PAUSE = 700; // ms after a change until it is saved

export class Corrections {
  /**
   * @param {string} jobId
   * @param {{turns, names}} machine what the server found
   * @param {{onChange, onState}} listeners `onChange` is told of new turns or names, `onState` a
   *   text, and whether it is a problem
   */
  constructor(jobId, machine, listeners) {
    this.path = `v1/jobs/${jobId}/corrections`;
    this.machine = machine;
    this.now = machine;
    this.version = 0;
    this.done = [];
    this.undone = [];
    this.listeners = listeners;
    this.saved = this.now;
    this.ended = new AbortController();
  }

  get turns() {
    return this.now.turns;
  }

  get names() {
    return this.now.names;
  }

  get dirty() {
    return this.now !== this.saved;
  }

  /** Take what was saved before, if there is any. */
  async load() {
    const answer = await call("GET", this.path, undefined, this.ended.signal);
    this.version = answer.version;
    if (answer.version) {
      this.now = this.saved = { turns: answer.turns, names: answer.names };
      this.listeners.onChange();
    }
  }

  /** Change turns, names or both; nothing happens where nothing is different. */
  change(news) {
    if (Object.entries(news).every(([name, value]) => this.now[name] === value)) return;
    this.done.push(this.now);
    this.undone = [];
    this.#set({ ...this.now, ...news });
  }

  /** Names that this browser keeps, until something else is saved with them. */
  keepNames(names) {
    this.machine = this.now = this.saved = { ...this.machine, names };
  }

  /** Whether nothing was ever saved or changed. */
  get pristine() {
    return this.version === 0 && this.done.length === 0 && this.undone.length === 0;
  }

  undo() {
    if (!this.done.length) return;
    this.undone.push(this.now);
    this.#set(this.done.pop());
  }

  redo() {
    if (!this.undone.length) return;
    this.done.push(this.now);
    this.#set(this.undone.pop());
  }

  /** Save at once what is not saved yet. */
  async save() {
    clearTimeout(this.timer);
    await this.saving;
    if (!this.dirty) return;
    this.saving = this.#send();
    await this.saving;
  }

  /** The page goes on to something else. */
  end() {
    if (this.dirty) this.save().catch(() => {});
    else this.ended.abort();
  }

  #set(now) {
    this.now = now;
    this.listeners.onChange();
    this.listeners.onState("Not saved yet", false);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save().catch(() => {}), PAUSE);
  }

  async #send() {
    const sent = this.now;
    this.listeners.onState("Saving…", false);
    const turns = sent.turns.map(({ start, end, speaker }) => ({ start, end, speaker }));
    try {
      const body = { base: this.version, turns, names: sent.names };
      const { version } = await call("PUT", this.path, body);
      this.version = version;
      this.saved = sent;
      this.listeners.onState(this.dirty ? "Not saved yet" : "All changes are saved", false);
    } catch (error) {
      const text =
        error.status === 409
          ? "Somebody else saved changes meanwhile. Reload the page to see them."
          : "Changes are not saved: the server does not take them now.";
      this.listeners.onState(text, true);
      throw error;
    }
  }
}
