// What goes on: an overview a second, from the admin port's feed, while somebody looks.
import { follow } from "./follow.js";
import { pause } from "./reading.js";

const HISTORY = 40; // rates that are kept of a stream, one a second
const EVERY_S = 1;

/** Tells with "overview" of each overview, and with "state" of the connection: connecting, live, lost, signed-out. */
export class Feed extends EventTarget {
  overview = null;
  state = "connecting";
  message = "";
  #rates = new Map();
  #stop = null;

  constructor() {
    super();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden)
        this.#stop?.abort(); // nobody looks; a browser has six connections to a server, for all its tabs
      else if (this.#stop?.signal.aborted && this.state !== "signed-out") this.start();
    });
  }

  get hasBegun() {
    return this.#stop !== null;
  }

  /** Begin, or begin again after a sign-in. */
  start() {
    this.#stop?.abort();
    this.#stop = new AbortController();
    this.#run(this.#stop.signal);
  }

  /** Return the rates of a stream so far, in events a second, the newest last. */
  ratesOf(ident) {
    return this.#rates.get(ident)?.history ?? [];
  }

  /** Return the newest rate of a stream. */
  rateOf(ident) {
    return this.ratesOf(ident).at(-1) ?? 0;
  }

  async #run(signal) {
    this.#become("connecting");
    for (let failures = 0; !signal.aborted;) {
      try {
        const options = { signal, attempts: 1, silenceMs: 8000 };
        for await (const { event, data } of follow(`/admin/events?every=${EVERY_S}`, options)) {
          if (event !== "overview") continue;
          failures = 0;
          this.#take(JSON.parse(data));
        }
      } catch (error) {
        if (signal.aborted) return;
        if ([401, 403].includes(error.response?.status)) return this.#become("signed-out");
        this.#become("lost", error.message);
        await pause(Math.min(8000, 500 * 2 ** failures++), signal);
      }
    }
  }

  #take(overview) {
    const seen = new Set();
    for (const { id, events, age_s, ended_s } of overview.streams) {
      seen.add(id);
      const known = this.#rates.get(id);
      if (ended_s !== null && known) continue;
      const since = known ?? { events: 0, at: overview.at - Math.max(age_s, 0.5), history: [] };
      const now = ended_s === null ? (events - since.events) / Math.max(overview.at - since.at, 0.2) : 0;
      since.history.push(now);
      if (since.history.length > HISTORY) since.history.shift();
      this.#rates.set(id, Object.assign(since, { events, at: overview.at }));
    }
    for (const id of this.#rates.keys()) if (!seen.has(id)) this.#rates.delete(id);
    this.overview = overview;
    this.#become("live");
    this.dispatchEvent(new Event("overview"));
  }

  #become(state, message = "") {
    if (this.state === state && this.message === message) return;
    Object.assign(this, { state, message });
    this.dispatchEvent(new Event("state"));
  }
}
