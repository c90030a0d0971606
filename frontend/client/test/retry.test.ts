import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, UnreachableError } from "../src/errors.js";
import { pauseBefore, secondsOf } from "../src/retry.js";

const said = (status: number, more: object = {}) => new ApiError({ status, title: "no", ...more });
const kind = (name: string) => ({ type: `urn:bloomweaver:problem:${name}` });

test("what may pass is tried again, a clear no is not", () => {
  for (const status of [408, 429, 502, 503, 504]) assert.notEqual(pauseBefore(said(status), 0, 9), null);
  for (const status of [400, 401, 403, 404, 409, 412, 422, 500]) {
    assert.equal(pauseBefore(said(status), 0, 9), null);
  }
  assert.notEqual(pauseBefore(new UnreachableError("http://x", "reset"), 0, 9), null);
  assert.notEqual(pauseBefore(said(409, kind("idempotency-key-in-use")), 0, 9), null);
  assert.equal(pauseBefore(said(504, kind("not-applied-in-time")), 0, 9), null);
  assert.equal(pauseBefore(new TypeError("a mistake"), 0, 9), null);
});

test("pauses grow to a cap, vary, and are as long as the service asks for", () => {
  const grown = [0, 1, 2, 9].map((failures) => pauseBefore(said(503), failures, 99, 1));
  assert.deepEqual(grown, [0.1, 0.2, 0.4, 5]);
  assert.equal(pauseBefore(said(503), 0, 99, 0), 0.05);
  assert.equal(pauseBefore(said(503, { retry_after_seconds: 7 }), 0, 99), 7);
});

test("nothing begins after the deadline", () => {
  assert.equal(pauseBefore(said(503, { retry_after_seconds: 7 }), 0, 6), null);
  assert.equal(pauseBefore(said(503), 0, 0), null);
});

test("Retry-After is seconds or a date", () => {
  assert.equal(secondsOf("3"), 3);
  assert.equal(secondsOf("Thu, 01 Jan 1970 00:00:10 GMT", 4000), 6);
  for (const nothing of [null, "", "soon", "-9"]) assert.equal(secondsOf(nothing), 0);
});
