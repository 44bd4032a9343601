/** Draws the visible part of a timeline on a canvas: ruler, waveform, one lane per speaker. */

import { formOf } from "./colors.js";
import { firstIndex } from "./conversation.js";
import { clock } from "./format.js";

export const RULER = 24;
export const WAVE = 72;
export const LANE = 30;
const BAR = 3; // px from one bar of the waveform to the next
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];

/** Top of a speaker's lane. */
export const laneTop = (speaker, hasWave) => RULER + (hasWave ? WAVE : 0) + speaker * LANE;

/**
 * @param {CanvasRenderingContext2D} context in CSS pixels
 * @param {{start, perPixel, width, height}} view `start` in seconds, `perPixel` seconds
 * @param {{speakers, exclusive, duration}} conversation
 * @param {{values, perSecond} | null} peaks
 * @param {object} colors see colors.js
 */
export function draw(context, view, conversation, peaks, colors) {
  context.clearRect(0, 0, view.width, view.height);
  drawRuler(context, view, conversation.duration, colors);
  if (peaks) drawWave(context, view, conversation, peaks, colors);
  conversation.speakers.forEach((speaker, index) => {
    const top = laneTop(index, peaks !== null);
    context.fillStyle = colors.lane;
    context.fillRect(0, top + 3, view.width, LANE - 6);
    context.fillStyle = colors.speakers[index % colors.speakers.length];
    drawTurns(context, view, speaker.turns, top + 3, LANE - 6, (x, width) =>
      drawForm(context, formOf(index), x, top + 3, width, LANE - 6, colors.lane),
    );
  });
}

function drawRuler(context, view, duration, colors) {
  const step = STEPS.find((seconds) => seconds / view.perPixel >= 72) ?? STEPS.at(-1) * 2;
  const digits = step < 1 ? 1 : 0;
  context.font = `12px ${colors.font}`;
  context.textBaseline = "middle";
  const last = Math.min(duration, view.start + view.width * view.perPixel);
  for (let tick = Math.floor(view.start / step); tick * step <= last; tick += 1) {
    const x = Math.round((tick * step - view.start) / view.perPixel) + 0.5;
    context.fillStyle = colors.line;
    context.fillRect(x - 0.5, 0, 1, view.height);
    context.fillStyle = colors.quiet;
    context.fillText(clock(tick * step, digits), x + 5, RULER / 2);
  }
}

/** Bars of loudness in the colour of who speaks. */
function drawWave(context, view, conversation, { values, perSecond }, colors) {
  const { exclusive, overlaps, duration } = conversation;
  const middle = RULER + WAVE / 2;
  const perBar = BAR * view.perPixel;
  // bars keep their place in time while the timeline scrolls
  let bar = Math.floor(view.start / perBar);
  let next = firstIndex(exclusive, (turn) => turn.end > bar * perBar);
  let both = firstIndex(overlaps, (overlap) => overlap.end > bar * perBar);
  for (; bar * perBar < view.start + view.width * view.perPixel; bar += 1) {
    const start = bar * perBar;
    if (start > duration) break;
    let peak = 0;
    const end = Math.max(start * perSecond + 1, (start + perBar) * perSecond);
    for (let at = Math.floor(start * perSecond); at < end && at < values.length; at += 1) {
      if (values[at] > peak) peak = values[at];
    }
    const center = start + perBar / 2;
    while (next < exclusive.length && exclusive[next].end <= center) next += 1;
    while (both < overlaps.length && overlaps[both].end <= center) both += 1;
    const turn = exclusive[next];
    const overlap = overlaps[both]?.start <= center ? overlaps[both] : null;
    const speakers = overlap?.speakers ?? (turn && turn.start <= center ? [turn.speaker] : []);
    const half = Math.max(1, (peak / 255) ** 0.7 * (WAVE / 2 - 5)); // so that soft voices show
    const x = (start - view.start) / view.perPixel;
    context.fillStyle = colors.silence;
    if (!speakers.length) context.fillRect(x, middle - half, BAR - 1, 2 * half);
    // those who speak at once share the bar, from above as the lanes are
    speakers.forEach((speaker, place) => {
      const height = (2 * half) / speakers.length;
      context.fillStyle = colors.speakers[speaker % colors.speakers.length];
      context.fillRect(x, middle - half + place * height, BAR - 1, height);
    });
  }
}

function drawTurns(context, view, turns, top, height, drawOver) {
  const last = view.start + view.width * view.perPixel;
  let at = firstIndex(turns, (turn) => turn.end > view.start); // one speaker's never overlap
  for (; at < turns.length && turns[at].start < last; at += 1) {
    const x = (turns[at].start - view.start) / view.perPixel;
    const width = Math.max(1.5, (turns[at].end - turns[at].start) / view.perPixel);
    context.globalAlpha = opacity(turns[at].confidence);
    if (width < 6) {
      context.fillRect(x, top, width, height);
    } else {
      context.beginPath();
      context.roundRect(x, top, width, height, 4);
      context.fill();
    }
    context.globalAlpha = 1;
    drawOver(x, width);
  }
}

/** What the machine is unsure of is paler; what a person says is not. */
export const opacity = (confidence) => (confidence === null ? 1 : 0.4 + 0.006 * confidence);

/** Stripes or dots by which a turn is told from others of its colour. */
function drawForm(context, form, x, top, width, height, color) {
  if (!form || width < 3) return;
  const fill = context.fillStyle;
  context.fillStyle = color;
  for (let at = x + 3; at < x + width - 2; at += 8) {
    if (form === 1) context.fillRect(at, top, 2, height);
    else context.fillRect(at, top + height / 2 - 1.5, 3, 3);
  }
  context.fillStyle = fill;
}
