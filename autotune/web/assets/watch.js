/** Following what happens to a job, through lost connections. */

import { jobPath } from "./api.js";

const KINDS = ["status", "started", "probe_started", "probe_ended", "standing"];
const AGAIN_MS = 5000;

/**
 * @param {string} name of the job
 * @param {{
 *   onEvent: (kind: string, data: any) => void,
 *   onLost: () => void,
 *   onFound: () => void,
 *   isOver: () => Promise<boolean>,
 * }} told `onFound` after a lost connection; `isOver` says whether an end of the stream is the job's
 */
export function watch(name, { onEvent, onLost, onFound, isOver }) {
  let last = 0;
  let isLost = false;

  function open() {
    // A reconnecting EventSource sends Last-Event-ID by itself; `after` is for one that had to be made anew.
    const source = new EventSource(`${jobPath(name)}/events?after=${last}`);
    source.onopen = () => {
      if (isLost) onFound();
      isLost = false;
    };
    source.onerror = async () => {
      if (await isOver()) {
        source.close();
        return;
      }
      if (!isLost) onLost();
      isLost = true;
      if (source.readyState === EventSource.CLOSED) setTimeout(open, AGAIN_MS);
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        last = Number(event.lastEventId) || last;
        onEvent(kind, JSON.parse(event.data));
      });
    }
  }

  open();
}
