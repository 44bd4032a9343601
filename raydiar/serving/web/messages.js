/** Errors in words that say what happened and what to do. */

import { spoken } from "./format.js";

/** The server's words without what this page added to the file's name. */
export const withoutKey = (text) => text.replace(/media:\/\/page\/[0-9a-f]{32}\//g, "");

export function inWords(error) {
  const said = withoutKey(error.message ?? "");
  const wait = error.retryAfter ? `in ${spoken(error.retryAfter)}` : "in a minute";
  switch (error.status) {
    case undefined:
      return `Something went wrong in this page: ${said}`;
    case 0:
      return "The server does not answer. Check your connection, then try again.";
    case 401:
      return "The server needs an API key for this.";
    case 403:
      return said || "The server does not allow this.";
    case 404:
      return said || "The server does not know this.";
    case 413:
      return `The recording is too large for this server. ${said}`.trim();
    case 429:
      return `The server is busy. Come back ${wait}.`;
    case 503:
      return `The server is not ready. Come back ${wait}.`;
  }
  if (error.status >= 500) return `The server failed (${error.status}). Try again in a while.`;
  return said || `The server refused this (${error.status}).`;
}
