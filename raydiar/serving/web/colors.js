/** Colours of the style sheet, for what is drawn: they differ between light and dark. */

const NUM_COLORS = 8; // style.css says how they were chosen

/** Of a speaker's dot and bar: beyond the eighth, colours come again with another form. */
export const colorClass = (speaker) => `speaker-${speaker % NUM_COLORS} form-${formOf(speaker)}`;

/** 0: filled, 1: striped, 2: dotted. */
export const formOf = (speaker) => Math.floor(speaker / NUM_COLORS) % 3;

export function readColors() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    speakers: Array.from({ length: NUM_COLORS }, (_, index) => read(`speaker-${index}`)),
    line: read("line"),
    lane: read("lane"),
    silence: read("silence"),
    quiet: read("quiet"),
    font: style.getPropertyValue("--font"),
  };
}

export function onColorChange(listener) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", listener);
}
