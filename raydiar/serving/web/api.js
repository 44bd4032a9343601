/**
 * The server's routes. The key lives in sessionStorage and travels in a header only; sound is
 * played through signed URLs that hold no key. All addresses are relative to the page, so that a
 * proxy may put the server under any path.
 */

const STORED_KEY = "raydiar.key";

/** What the server answered instead of a result; status 0: it did not answer. */
export class ApiError extends Error {
  constructor(status, message = "", retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter; // seconds
  }
}

let askForKey = async () => null;
let asking = null;

/** Set the function that asks the user; it gets whether a key was refused, and gives one or null. */
export function setKeyPrompt(prompt) {
  askForKey = prompt;
}

export const hasKey = () => sessionStorage.getItem(STORED_KEY) !== null;
export const forgetKey = () => sessionStorage.removeItem(STORED_KEY);

/** Call a route; gives the parsed answer. Asks for a key as often as the server refuses. */
export async function call(method, path, body, signal) {
  return (await answerOf(method, path, body, signal)).json();
}

/** Get a route's answer as text. */
export async function callText(path) {
  return (await answerOf("GET", path)).text();
}

async function answerOf(method, path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(STORED_KEY);
    const response = await send(method, path, body, key, signal);
    if (response.ok) return response;
    if (response.status !== 401) throw await errorOf(response);
    if (key === sessionStorage.getItem(STORED_KEY)) {
      // requests that are refused at the same time ask once
      asking ??= askForKey(key !== null).finally(() => (asking = null));
      const answer = await asking;
      if (answer === null) throw new ApiError(401);
      sessionStorage.setItem(STORED_KEY, answer);
    }
  }
}

async function send(method, path, body, key, signal) {
  const headers = {};
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  try {
    return await fetch(path, { method, headers, body: text, signal });
  } catch (error) {
    throw signal?.aborted ? error : new ApiError(0);
  }
}

async function errorOf(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  return new ApiError(response.status, messageIn(await response.text()), retryAfter);
}

/** The server's own words in an error's body, with what it says of single fields. */
function messageIn(text) {
  try {
    const { message = "", errors } = JSON.parse(text);
    const details = (errors ?? []).map((error) => error.message ?? "");
    const more = details.filter((detail) => !message.includes(detail));
    return [message, ...more].join(" ");
  } catch {
    return ""; // a proxy's page, perhaps
  }
}

/** Upload a file to a signed URL; `onProgress` gets bytes sent. */
export function upload(url, file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
    request.open("PUT", here(url));
    request.upload.onprogress = (event) => onProgress(event.loaded);
    request.onload = () => {
      if (request.status < 300) return resolve();
      const retryAfter = Number(request.getResponseHeader("Retry-After")) || null;
      return reject(new ApiError(request.status, messageIn(request.responseText), retryAfter));
    };
    request.onerror = () => reject(new ApiError(0));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** A signed URL as reached from here: the server may know itself under another name. */
export function here(signedUrl) {
  return signedUrl.slice(signedUrl.indexOf("/v1/media/") + 1);
}

/** A short-lived address under which an upload can be played. */
export async function playableUrl(media) {
  const { url } = await call("POST", "v1/media/output", { url: media });
  return here(url);
}
