/** The result as files, with the names that speakers were given. */

import { callText } from "./api.js";

/** RTTM (NIST); white space, which it cannot hold, becomes "_". */
export function toRttm(name, output, nameOf) {
  const uri = inRttm(stem(name));
  return output.diarization
    .map(({ start, end, speaker }) => {
      const times = `${start.toFixed(3)} ${(end - start).toFixed(3)}`;
      return `SPEAKER ${uri} 1 ${times} <NA> <NA> ${inRttm(nameOf(speaker))} <NA> <NA>\n`;
    })
    .join("");
}

export const inRttm = (text) => text.trim().replace(/[\s\u0000-\u001f]+/gu, "_") || "_";

/** The server's output as it is, except for the names. */
export function toJson(job, output, nameOf) {
  const renamed = (record) =>
    Object.fromEntries(Object.entries(record).map(([label, value]) => [nameOf(label), value]));
  const turns = (list) =>
    list.map((turn) => ({
      ...turn,
      speaker: nameOf(turn.speaker),
      ...(turn.confidence && { confidence: renamed(turn.confidence) }),
    }));
  const document = { recording: job.name, jobId: job.id, ...output };
  for (const part of ["diarization", "exclusiveDiarization"]) {
    if (output[part]) document[part] = turns(output[part]);
  }
  if (output.speakerVoiceprints) {
    document.speakerVoiceprints = renamed(output.speakerVoiceprints);
  }
  return JSON.stringify(document, null, 2) + "\n";
}

const ENDINGS = { csv: ".csv", srt: ".srt", vtt: ".vtt", audacity: ".labels.txt" };

/** Ending, text and type of a file that the server makes of what was saved last. */
export async function fetchExport(job, form) {
  const path = `v1/jobs/${job.id}/export/${form}?name=${encodeURIComponent(job.name)}`;
  return [ENDINGS[form], await callText(path), "text/plain"];
}

/** Let the browser save a text as a file beside the recording's name. */
export function save(name, extension, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = stem(name) + extension;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser reads it after the click
}

const stem = (name) => name.replace(/(.)\.[^.]{1,5}$/u, "$1");
