/** Asking the server: JSON from /v1, and its errors (application/problem+json) as `Problem`. */

export class Problem extends Error {
  /**
   * @param {number} status 0 where the server did not answer at all
   * @param {string} detail
   * @param {{field: string, message: string}[]} [errors]
   */
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

export const jobPath = (name) => `/v1/jobs/${encodeURIComponent(name)}`;

/** @param {{signal?: AbortSignal}} [options] */
export async function get(path, options = {}) {
  return (await ask(path, options)).json();
}

export async function getText(path) {
  return (await ask(path, {})).text();
}

/** @param {{signal?: AbortSignal, headers?: Record<string, string>}} [options] */
export async function post(path, body = {}, { signal, headers = {} } = {}) {
  const sent = { method: "POST", body: JSON.stringify(body), signal, headers: { "Content-Type": "application/json", ...headers } };
  return (await ask(path, sent)).json();
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "the server does not answer; is it running?");
  }
  if (response.ok) return response;
  if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  throw await problemOf(response);
}

async function problemOf(response) {
  try {
    const told = await response.json();
    return new Problem(response.status, told.detail ?? told.title ?? response.statusText, told.errors ?? []);
  } catch {
    return new Problem(response.status, `the server answered ${response.status} ${response.statusText}`.trim());
  }
}

/** A key that marks one submission, however often it is sent. */
export function newKey() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
