/**
 * Loudness of a recording over time: from the server, which looked while it decoded, or computed in
 * the browser where the server has none. decodeAudioData holds the whole recording in memory, at
 * 8 kHz 115 MB an hour and channel; longer ones go without.
 */

import { call } from "./api.js";

const SAMPLE_RATE = 8000; // the least that every browser decodes to
const PER_SECOND = 50;
const LONGEST = 3700; // seconds
const LARGEST = 500e6; // bytes
const OUTLINE = 3000; // peaks that are remembered

/** Peaks of a job as {values, perSecond}, and its seconds; null where the server has none. */
export async function fetchPeaks(jobId, signal) {
  const { peaks, seconds } = await call("GET", `v1/jobs/${jobId}/waveform`, undefined, signal);
  if (!seconds || !peaks) return null;
  // the server's are square roots, which show soft voices in a byte
  const values = Float32Array.from(atob(peaks), (letter) => letter.charCodeAt(0) ** 2);
  return { values: scaled(values), perSecond: values.length / seconds, seconds };
}

/** Peaks of a file as {values: Uint8Array, perSecond}, or null where it has none to show. */
export async function readPeaks(file, duration) {
  if (!(duration <= LONGEST) || file.size > LARGEST) return null;
  let audio;
  try {
    const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
    audio = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    return null; // no format of this browser
  }
  const step = SAMPLE_RATE / PER_SECOND;
  const values = new Float32Array(Math.ceil(audio.length / step));
  for (let channel = 0; channel < audio.numberOfChannels; channel += 1) {
    const samples = audio.getChannelData(channel);
    for (let index = 0; index < values.length; index += 1) {
      const end = Math.min(samples.length, (index + 1) * step);
      for (let at = index * step; at < end; at += 1) {
        const size = Math.abs(samples[at]);
        if (size > values[index]) values[index] = size;
      }
      if (index % 20_000 === 19_999) await new Promise((resolve) => setTimeout(resolve));
    }
  }
  return { values: scaled(values), perSecond: PER_SECOND };
}

/** To 0..255, where 255 is nearly the loudest: one click must not flatten all the rest. */
function scaled(values) {
  const loudest = values.slice().sort()[Math.floor(0.999 * (values.length - 1))] || 1;
  return Uint8Array.from(values, (value) => Math.min(255, (255 * value) / loudest));
}

/** A short text to remember peaks by; long recordings get coarser. */
export function toOutline(peaks) {
  const factor = Math.max(1, Math.ceil(peaks.values.length / OUTLINE));
  const values = new Uint8Array(Math.ceil(peaks.values.length / factor));
  peaks.values.forEach((value, index) => {
    const at = Math.floor(index / factor);
    values[at] = Math.max(values[at], value);
  });
  return { text: btoa(String.fromCharCode(...values)), perSecond: peaks.perSecond / factor };
}

export function fromOutline({ text, perSecond }) {
  return { values: Uint8Array.from(atob(text), (character) => character.charCodeAt(0)), perSecond };
}
