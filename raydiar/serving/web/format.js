/** Times, sizes and shares as people read them. */

/** 75.25 -> "1:15"; from an hour on "1:00:15"; with digits "1:15.3". */
export function clock(seconds, digits = 0) {
  const unit = 10 ** digits;
  const total = Math.round(Math.max(0, seconds) * unit); // rounded first: never 0:60
  const whole = Math.floor(total / unit);
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const pad = (number) => String(number).padStart(2, "0");
  const fraction = digits ? "." + String(total % unit).padStart(digits, "0") : "";
  const start = hours ? `${hours}:${pad(minutes)}` : String(minutes);
  return `${start}:${pad(whole % 60)}${fraction}`;
}

/** 75 -> "1 min 15 s", 7.34 -> "7.3 s". */
export function spoken(seconds) {
  const tenths = Math.round(10 * seconds);
  if (tenths < 600) return `${tenths / 10}\u00a0s`;
  const total = Math.round(seconds);
  const parts = [
    [Math.floor(total / 3600), "h"],
    [Math.floor(total / 60) % 60, "min"],
    [total % 60, "s"],
  ].filter(([number]) => number);
  return parts.slice(0, 2).map(([number, unit]) => `${number}\u00a0${unit}`).join(" ");
}

export function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let index = 0;
  while (number >= 1000 && index < units.length - 1) {
    number /= 1000;
    index += 1;
  }
  return `${number.toFixed(index && number < 10 ? 1 : 0)}\u00a0${units[index]}`;
}

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export const plural = (number, one, many) => `${number} ${number === 1 ? one : many}`;

export function moment(milliseconds) {
  const options = { dateStyle: "medium", timeStyle: "short" };
  return new Intl.DateTimeFormat(undefined, options).format(milliseconds);
}
