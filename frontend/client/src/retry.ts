/** What is tried again, and when. Pure; `client.ts` does the waiting. */

import { ApiError, UnreachableError } from "./errors.js";

const PASSING = new Set([408, 429, 502, 503, 504]);
const FIRST_PAUSE_SECONDS = 0.1;
const LONGEST_PAUSE_SECONDS = 5;
/** A 409 that only an own repeated request gets: the first is still being worked on. */
const IN_USE = "idempotency-key-in-use";
/** A 504 that ends a wait: who waited decides whether to wait again. */
export const NOT_APPLIED = "not-applied-in-time";

export function isPassing(error: unknown): boolean {
  if (error instanceof ApiError) {
    if (error.kind === NOT_APPLIED) return false;
    return error.kind === IN_USE || PASSING.has(error.status);
  }
  return error instanceof UnreachableError;
}

/** Of a Retry-After: seconds, or the HTTP date they end at. 0 for anything else. */
export function secondsOf(retryAfter: string | null, now = Date.now()): number {
  if (!retryAfter) return 0;
  const seconds = Number(retryAfter);
  if (!Number.isNaN(seconds)) return Math.max(seconds, 0);
  const ends = Date.parse(retryAfter);
  return Number.isNaN(ends) ? 0 : Math.max((ends - now) / 1000, 0);
}

/**
 * Seconds until the next try, or null: the error is final, or the next try would begin after the
 * deadline. `failures` were there before; `random` is from 0 to 1, so that many clients that were
 * sent away together do not come back together.
 */
export function pauseBefore(
  error: unknown,
  failures: number,
  secondsLeft: number,
  random = Math.random(),
): number | null {
  if (!isPassing(error)) return null;
  const longest = Math.min(FIRST_PAUSE_SECONDS * 2 ** failures, LONGEST_PAUSE_SECONDS);
  const asked = error instanceof ApiError ? (error.problem.retry_after_seconds ?? 0) : 0;
  const pause = Math.max(longest * (0.5 + random / 2), asked);
  return pause < secondsLeft ? pause : null;
}
