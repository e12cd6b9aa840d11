/** An event of a stream. */
export interface FollowedEvent {
  /** The id after which a follower resumes; "" before the first event with one. */
  id: string;
  /** The event's type; "message" if it has none. */
  event: string;
  data: string;
}

/** Those of fetch, and how to resume. */
export interface FollowOptions extends Omit<RequestInit, "signal"> {
  /** The event after which to begin. */
  lastEventId?: string;
  /** Milliseconds before the first new attempt, 500 by default; doubled after each failure. The stream may change it. */
  retryMs?: number;
  /** Milliseconds of silence after which a connection counts as lost, 45000 by default: heartbeats come more often. */
  silenceMs?: number;
  /** Failures in a row, the last of which is thrown; 8 by default. */
  attempts?: number;
  /** Ends the following. */
  signal?: AbortSignal;
}

/** What is thrown for a refusal that trying again can't change. */
export interface FollowError extends Error {
  response?: Response;
}

/** An answer so far: content, and the reasoning before it. */
export interface Completion {
  content: string;
  reasoning_content: string;
}

/** Yield the events of a stream until its end: status 204, or [DONE]. */
export function follow(url: string | URL, options?: FollowOptions): AsyncGenerator<FollowedEvent, void, undefined>;

/** Yield a chat completion so far, after each of its chunks. Throws the error that it ends with. */
export function completion(url: string | URL, options?: FollowOptions): AsyncGenerator<Completion, void, undefined>;
