/**
 * The timeline: a strip as wide as the zoom asks for in a box that scrolls natively, with one
 * canvas that stays in view and draws the visible part only, however long the recording is.
 *
 * For keyboards and screen readers it is a list box of turns. Only the chosen turn exists as an
 * element, which also carries the focus ring.
 */

import { onColorChange, colorClass, readColors } from "./colors.js";
import { firstIndex } from "./conversation.js";
import { make } from "./dom.js";
import { LANE, RULER, WAVE, draw, laneTop } from "./drawing.js";
import { clock } from "./format.js";
import { SHORTEST } from "./turns.js";

const CLOSEST = 200; // px per second
const WIDEST = 12e6; // px; browsers have elements no wider than about 16 million
const REACH = 4; // px beside a turn that still hit it
const GRIP = 7; // px beside an edge that take hold of it

export class Timeline {
  /**
   * @param {{onTurn, onSeek, onToggle, onEdges, onDraw}} listeners get a turn, seconds, a turn, a
   *   turn with its new start and end, a speaker's index with start and end
   */
  constructor(root, listeners) {
    this.listeners = listeners;
    this.names = make("div", { class: "lane-names", "aria-hidden": "true" });
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.playhead = make("div", { class: "playhead", "aria-hidden": "true" });
    this.draft = make("div", { class: "draft", "aria-hidden": "true", hidden: true });
    this.strip = make("div", { class: "strip" }, this.canvas, this.playhead, this.draft);
    this.editing = false;
    this.drag = null;
    this.box = make(
      "div",
      {
        class: "scroller",
        role: "listbox",
        tabindex: "0",
        "aria-label": "Turns",
        "aria-describedby": "timeline-help",
        "aria-orientation": "horizontal",
      },
      this.strip,
    );
    root.replaceChildren(this.names, this.box);
    this.context = this.canvas.getContext("2d");
    this.colors = readColors();
    onColorChange(() => {
      this.colors = readColors();
      this.#redraw();
    });
    new ResizeObserver(() => this.#resized()).observe(this.box);
    this.box.addEventListener("scroll", () => this.#redraw());
    this.box.addEventListener("click", (event) => this.#clicked(event));
    this.box.addEventListener("pointerdown", (event) => this.#grabbed(event));
    this.box.addEventListener("pointermove", (event) => this.#moved(event));
    this.box.addEventListener("pointerup", () => this.#dropped());
    this.box.addEventListener("pointercancel", () => this.#dropped(false));
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("focus", () => {
      if (this.chosen === null && this.turns.length) this.#choose(this.turns[0]);
    });
    this.box.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    this.clear();
  }

  clear() {
    this.conversation = null;
    this.turns = [];
    this.chosen = null;
    this.option?.remove();
    this.peaks = null;
    this.time = 0;
    this.perSecond = null; // px; null: all of it fits
  }

  /** Show a conversation of a recording of `duration` seconds. */
  show(conversation, duration, nameOf) {
    this.clear();
    this.conversation = { ...conversation, duration };
    this.turns = conversation.turns;
    this.nameOf = nameOf;
    this.rename();
    this.#layOut();
    this.box.scrollLeft = 0;
    this.setTime(0);
  }

  /** Turns were corrected; what is chosen stays so, or what has taken its place. */
  update(conversation, chosenSource = this.chosen?.source) {
    const old = this.chosen;
    this.conversation = { ...conversation, duration: this.conversation.duration };
    this.turns = conversation.turns;
    this.chosen = null;
    this.option?.remove();
    this.rename();
    this.#layOut();
    const same = this.turns.find((turn) => turn.source === chosenSource);
    const near = (turn) => Math.abs(turn.start - old.start) + Math.abs(turn.end - old.end);
    const next = same ?? (old && this.turns.reduce((a, b) => (near(b) < near(a) ? b : a), this.turns[0]));
    if (next) this.#choose(next);
    else this.box.removeAttribute("aria-activedescendant");
  }

  setEditing(editing) {
    this.editing = editing;
    this.box.classList.toggle("editing", editing);
  }

  /** Names have changed. */
  rename() {
    const labels = this.conversation.speakers.map((_, index) => {
      const dot = make("span", { class: `dot ${colorClass(index)}` });
      return make("div", { class: "lane-name" }, dot, make("span", {}, this.nameOf(index)));
    });
    this.names.replaceChildren(...labels);
    if (this.chosen) this.#choose(this.chosen);
  }

  setPeaks(peaks) {
    this.peaks = peaks;
    this.#layOut();
  }

  setDuration(duration) {
    if (!this.conversation) return;
    this.conversation.duration = Math.max(duration, this.conversation.end);
    this.#layOut();
  }

  /** Move the playhead; `follow` keeps it in view. */
  setTime(seconds, follow = false) {
    this.time = seconds;
    if (!this.conversation) return;
    const x = seconds * this.#scale();
    this.playhead.style.transform = `translateX(${x}px)`;
    const left = this.box.scrollLeft;
    if (follow && (x < left || x > left + this.box.clientWidth)) {
      this.box.scrollLeft = x - this.box.clientWidth / 10;
    }
  }

  /** Zoom by a factor around a place in view (px); 0 fits all. */
  zoom(factor, place = this.box.clientWidth / 2) {
    if (!this.conversation) return;
    const before = this.#scale();
    const center = (this.box.scrollLeft + place) / before;
    const fit = this.#fit();
    const closest = Math.max(fit, Math.min(CLOSEST, WIDEST / this.conversation.duration));
    const scale = Math.min(closest, before * factor);
    this.perSecond = scale > fit ? scale : null;
    this.#layOut();
    this.box.scrollLeft = center * this.#scale() - place;
  }

  #fit() {
    return this.box.clientWidth / this.conversation.duration;
  }

  #scale() {
    return Math.max(this.perSecond ?? 0, this.#fit()) || 1;
  }

  #resized() {
    if (this.conversation && this.box.clientWidth) this.#layOut();
  }

  #layOut() {
    if (!this.conversation) return;
    const { speakers, duration } = this.conversation;
    const width = this.box.clientWidth;
    const height = laneTop(speakers.length, this.peaks !== null) + 4;
    const dense = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dense);
    this.canvas.height = Math.round(height * dense);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.context.setTransform(dense, 0, 0, dense, 0, 0);
    this.names.style.paddingTop = `${laneTop(0, this.peaks !== null)}px`;
    this.strip.style.width = `${Math.max(width, Math.floor(duration * this.#scale()))}px`;
    this.setTime(this.time);
    this.#place();
    this.#draw();
  }

  #redraw() {
    this.scheduled ??= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.scheduled);
    this.scheduled = null;
    if (!this.conversation) return;
    const view = {
      start: this.box.scrollLeft / this.#scale(),
      perPixel: 1 / this.#scale(),
      width: this.canvas.clientWidth,
      height: this.canvas.clientHeight,
    };
    draw(this.context, view, this.conversation, this.peaks, this.colors);
  }

  // Choosing turns.

  #choose(turn) {
    this.chosen = turn;
    const index = this.turns.indexOf(turn);
    const times = `${clock(turn.start, 1)} to ${clock(turn.end, 1)}`;
    const text = `${this.nameOf(turn.speaker)}, ${times}`;
    // a new element each time: a changed one is not read aloud again
    this.option?.remove();
    this.option = make(
      "div",
      {
        id: `turn-${index}`,
        class: "turn",
        role: "option",
        "aria-selected": "true",
        "aria-posinset": String(index + 1),
        "aria-setsize": String(this.turns.length),
      },
      make("span", { class: "unseen" }, text),
    );
    this.strip.append(this.option);
    this.box.setAttribute("aria-activedescendant", this.option.id);
    this.#place();
  }

  #place() {
    if (!this.chosen) return;
    const scale = this.#scale();
    const { start, end, speaker } = this.chosen;
    this.option.style.left = `${start * scale}px`;
    this.option.style.top = `${laneTop(speaker, this.peaks !== null) + 3}px`;
    this.option.style.width = `${Math.max(2, (end - start) * scale)}px`;
    this.option.style.height = `${LANE - 6}px`;
  }

  #reveal(turn) {
    const scale = this.#scale();
    const width = this.box.clientWidth;
    const left = this.box.scrollLeft;
    if (turn.start * scale < left || turn.end * scale > left + width) {
      this.box.scrollLeft = turn.start * scale - width / 4;
    }
  }

  #secondsAt(event) {
    const x = event.clientX - this.box.getBoundingClientRect().left + this.box.scrollLeft;
    return x / this.#scale();
  }

  #turnAt(event) {
    const y = event.clientY - this.box.getBoundingClientRect().top;
    const first = RULER + (this.peaks ? WAVE : 0);
    const speaker = this.conversation?.speakers[Math.floor((y - first) / LANE)];
    if (y < first || !speaker) return null;
    const seconds = this.#secondsAt(event);
    const reach = REACH / this.#scale();
    const after = firstIndex(speaker.turns, (turn) => turn.end > seconds);
    const near = speaker.turns
      .slice(Math.max(0, after - 1), after + 1)
      .map((turn) => ({ turn, far: Math.max(turn.start - seconds, seconds - turn.end, 0) }))
      .sort((a, b) => a.far - b.far)[0];
    return near && near.far <= reach ? near.turn : null;
  }

  // Dragging.

  #edgeAt(event) {
    if (!this.chosen) return null;
    const { top, bottom } = this.option.getBoundingClientRect();
    if (event.clientY < top || event.clientY > bottom) return null;
    const x = this.#secondsAt(event) * this.#scale();
    for (const edge of ["start", "end"]) {
      if (Math.abs(this.chosen[edge] * this.#scale() - x) <= GRIP) return edge;
    }
    return null;
  }

  #laneAt(event) {
    const y = event.clientY - this.box.getBoundingClientRect().top;
    const lane = Math.floor((y - laneTop(0, this.peaks !== null)) / LANE);
    return lane >= 0 && lane < this.conversation.speakers.length ? lane : null;
  }

  #grabbed(event) {
    this.dragged = false;
    if (!this.editing || !this.conversation || event.button) return;
    const at = this.#secondsAt(event);
    const edge = this.#edgeAt(event);
    if (edge) {
      const { start, end, speaker } = this.chosen;
      this.drag = { turn: this.chosen, edge, start, end, speaker, from: event.clientX };
    } else if (event.pointerType !== "touch" && !this.#turnAt(event)) {
      const speaker = this.#laneAt(event);
      if (speaker === null) return;
      this.drag = { turn: null, anchor: at, start: at, end: at, speaker, from: event.clientX };
    } else return;
    this.box.setPointerCapture(event.pointerId);
  }

  #moved(event) {
    if (!this.drag) {
      const edge = this.editing && this.conversation && this.#edgeAt(event);
      this.box.classList.toggle("over-edge", Boolean(edge));
      this.box.classList.toggle("over-turn", !edge && this.#turnAt(event) !== null);
      return;
    }
    const { drag } = this;
    if (!this.dragged && Math.abs(event.clientX - drag.from) < REACH) return;
    this.dragged = true;
    const at = Math.max(0, Math.min(this.#secondsAt(event), this.conversation.duration));
    if (drag.turn === null) {
      drag.start = Math.min(at, drag.anchor);
      drag.end = Math.max(at, drag.anchor);
    } else if (drag.edge === "start") drag.start = Math.min(at, drag.end - SHORTEST);
    else drag.end = Math.max(at, drag.start + SHORTEST);
    const scale = this.#scale();
    this.draft.hidden = false;
    this.draft.style.left = `${drag.start * scale}px`;
    this.draft.style.width = `${Math.max(2, (drag.end - drag.start) * scale)}px`;
    this.draft.style.top = `${laneTop(drag.speaker, this.peaks !== null) + 3}px`;
    this.draft.style.height = `${LANE - 6}px`;
  }

  #dropped(counts = true) {
    const { drag } = this;
    this.drag = null;
    this.draft.hidden = true;
    if (!drag || !this.dragged || !counts) return;
    if (drag.turn) this.listeners.onEdges(drag.turn, drag.start, drag.end);
    else if (drag.end - drag.start >= SHORTEST) {
      this.listeners.onDraw(drag.speaker, drag.start, drag.end);
    }
  }

  #clicked(event) {
    if (!this.conversation) return;
    if (this.dragged) {
      this.dragged = false; // that was a drag's end
      return;
    }
    const turn = this.#turnAt(event);
    if (turn) {
      this.#choose(turn);
      this.listeners.onTurn(turn);
    } else {
      this.listeners.onSeek(Math.min(this.#secondsAt(event), this.conversation.duration));
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.turns.length) return;
    const at = this.turns.indexOf(this.chosen);
    const step = {
      ArrowRight: () => this.turns[Math.min(at + 1, this.turns.length - 1)],
      ArrowLeft: () => this.turns[Math.max(at - 1, 0)],
      ArrowDown: () => this.#inLane(1),
      ArrowUp: () => this.#inLane(-1),
      Home: () => this.turns[0],
      End: () => this.turns.at(-1),
    }[event.key];
    const action = {
      Enter: () => this.listeners.onTurn(this.chosen),
      " ": () => this.listeners.onToggle(this.chosen),
      "+": () => this.zoom(2),
      "=": () => this.zoom(2), // + without Shift
      "-": () => this.zoom(0.5),
      0: () => this.zoom(0),
    }[event.key];
    if (!step && !action) return;
    event.preventDefault();
    if (action) return action();
    const turn = step();
    this.#choose(turn);
    this.#reveal(turn);
  }

  /** The turn of the next lane that is nearest to the chosen one. */
  #inLane(direction) {
    const speaker = this.conversation.speakers[this.chosen.speaker + direction];
    if (!speaker) return this.chosen;
    const far = (turn) => Math.abs(turn.start - this.chosen.start);
    return speaker.turns.reduce((best, turn) => (far(turn) < far(best) ? turn : best));
  }

  #wheel(event) {
    if (!event.ctrlKey) return; // two fingers apart come as Ctrl and wheel
    event.preventDefault();
    const place = event.clientX - this.box.getBoundingClientRect().left;
    this.zoom(Math.exp(-event.deltaY / 200), place);
  }
}
