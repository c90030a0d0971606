/** Against a real service at BLOOMWEAVER_URL, with workers; tests/integration/test_typescript_client.py starts it. */

import assert from "node:assert/strict";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { ApiError, BloomWeaver, DocumentFailedError, UnreachableError, WaitTimeoutError } from "../src/index.js";

const url = process.env["BLOOMWEAVER_URL"] ?? "";
const skip = url ? false : "BLOOMWEAVER_URL names no service";
const docs = { namespace: "docs" };
const client = new BloomWeaver(url);

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

test("the life of a document", { skip }, async () => {
  const made = await client.insert("a b/ü?#.md", { ...docs, content: "alpha", metadata: { lang: "en" }, wait: true });
  assert.deepEqual([made.outcome, made.version], ["accepted", 1]);
  const answer = await client.search("alpha", { ...docs, top_k: 3, filter: { lang: "en" } });
  assert.deepEqual(answer.hits.map((hit) => hit.document_id), ["a b/ü?#.md"]);
  await client.update("a b/ü?#.md", { ...docs, metadata: { lang: "de" }, if_version: 1, wait: true });
  const seen = await client.document("a b/ü?#.md", docs);
  assert.deepEqual([seen.status, seen.applied.version], ["COMPLETED", 2]);
  assert.equal(await (await client.content("a b/ü?#.md", docs)).text(), "alpha");
  assert.deepEqual((await all(client.chunks("a b/ü?#.md", docs))).map((chunk) => chunk.text), ["alpha"]);
  await client.delete("a b/ü?#.md", { ...docs, wait: true });
  assert.deepEqual((await client.search("alpha", docs)).hits, []);
  const events = (await all(client.history("a b/ü?#.md", docs))).map((event) => event.event);
  assert.equal(events.filter((event) => event === "accepted").length, 3);
});

test("a no says what the service said", { skip }, async () => {
  await client.insert("editors", { ...docs, content: "one" });
  await assert.rejects(client.insert("editors", { ...docs, content: "two", if_version: 0 }), (error) => {
    assert(error instanceof ApiError);
    assert.deepEqual([error.status, error.kind, error.problem.version], [412, "precondition-failed", 1]);
    assert(error.requestId);
    return true;
  });
  await assert.rejects(client.document("nobody", docs), { status: 404 });
  assert.throws(() => void client.document("..", docs), /no address/);
});

test("a list, listings and numbers", { skip }, async () => {
  const changes = ["x/1", "x/2"].map((id) => ({ ...docs, change_type: "insert" as const, document_id: id, content: id }));
  const nobody = { ...docs, change_type: "update" as const, document_id: "nobody", metadata: { a: "b" } };
  const results = await client.submit([...changes, nobody], { wait: true });
  assert.deepEqual(results.map((result) => "error" in result), [false, false, true]);
  const listed = await all(client.documents({ ...docs, prefix: "x/", status: "COMPLETED" }));
  assert.deepEqual(listed.map((row) => row.document_id), ["x/1", "x/2"]);
  const stats = await client.stats();
  assert.equal(stats.namespaces[0]?.namespace, "docs");
  assert.deepEqual(await all(client.deadLetters({ namespace: "nobody" })), []);
  assert.equal(await client.redrive({ message_ids: [] }), 0);
  const report = await client.scrub(docs);
  assert.equal(report.clean, true);
});

test("a wait that is over", { skip }, async () => {
  await assert.rejects(client.waitSearchable([{ ...docs, document_id: "x/1", outcome: "accepted", version: 9 }], { wait: 0.1 }), WaitTimeoutError);
});

// --- a service that misbehaves ---

type Asked = { url: string; key: string | undefined };

async function misbehaving<T>(acts: RequestListener[], use: (client: BloomWeaver, asked: Asked[]) => Promise<T>): Promise<T> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    asked.push({ url: request.url ?? "", key: request.headers["idempotency-key"] as string | undefined });
    (acts.length > 1 ? acts.shift() : acts[0])?.(request, response);
  });
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  const { port } = server.address() as AddressInfo;
  try {
    return await use(new BloomWeaver(`http://127.0.0.1:${port}`, { timeoutSeconds: 0.5, retrySeconds: 5 }), asked);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const saying = (status: number, body: unknown, headers = {}): RequestListener => (_request, response) => {
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
};
const accepted = saying(202, { ...docs, document_id: "a", outcome: "accepted", version: 1 });
const dropping: RequestListener = (request) => request.socket.destroy();
const silent: RequestListener = () => {};

test("what may pass is asked again under one key", async () => {
  for (const first of [saying(503, {}, { "Retry-After": "0.01" }), saying(429, {}), dropping, silent]) {
    await misbehaving([first, accepted], async (client, asked) => {
      assert.equal((await client.insert("a", { content: "text" })).version, 1);
      assert.equal(asked.length, 2);
      assert.match(asked[0]?.key ?? "", /^[0-9a-f]{32}$/);
      assert.equal(asked[0]?.key, asked[1]?.key);
    });
  }
});

test("an answer that breaks off is asked for again", async () => {
  const broken: RequestListener = (_request, response) => {
    response.writeHead(202, { "Content-Type": "application/json", "Content-Length": "99" });
    response.write('{"version"', () => response.destroy());
  };
  await misbehaving([broken, accepted], async (client, asked) => {
    assert.equal((await client.insert("a", { content: "text" })).version, 1);
    assert.deepEqual([asked.length, asked[0]?.key], [2, asked[1]?.key]);
  });
  await misbehaving([broken, saying(200, {})], async (client, asked) => {
    assert.equal(await (await client.content("a", docs)).text(), "{}");
    assert.equal(asked.length, 2);
  });
});

test("what is done to letters is not begun again", async () => {
  for (const first of [dropping, saying(503, {})]) {
    await misbehaving([first, saying(200, { redriven: 0, discarded: 0 })], async (client, asked) => {
      await assert.rejects(client.redrive({ all: true }));
      assert.equal(asked.length, 1);
    });
  }
});

test("a page in place of an answer is told, and not asked for again", async () => {
  const page: RequestListener = (_request, response) => void response.writeHead(200).end("<html>Sign in</html>");
  for (const act of [page, saying(200, ["nothing"])]) {
    await misbehaving([act], async (client, asked) => {
      await assert.rejects(client.stats(), (error) => error instanceof ApiError && /does not speak/.test(error.message));
      assert.equal(asked.length, 1);
    });
  }
});

test("a clear no, and one that asks for too much time, are asked once", async () => {
  for (const act of [saying(422, { title: "no" }), saying(503, {}, { "Retry-After": "3600" })]) {
    await misbehaving([act, accepted], async (client, asked) => {
      await assert.rejects(client.insert("a", { content: "text" }), ApiError);
      assert.equal(asked.length, 1);
    });
  }
});

test("a document that failed is told with its reason", async () => {
  const row = { ...docs, document_id: "a", status: "FAILED", error: "broken PDF", applied: { version: 0 } };
  await misbehaving([accepted, saying(200, row)], async (client) => {
    await assert.rejects(client.insert("a", { content: "text", wait: true }), (error) => {
      assert(error instanceof DocumentFailedError);
      assert.equal(error.reason, "broken PDF");
      return true;
    });
  });
});

test("nobody there, and nobody who wants to know any more", async () => {
  const gone = new BloomWeaver("http://127.0.0.1:9", { retrySeconds: 0 });
  await assert.rejects(gone.stats(), UnreachableError);
  const stop = new AbortController();
  const left = new BloomWeaver("http://127.0.0.1:9", { signal: stop.signal });
  const asking = left.stats();
  stop.abort(new Error("closed the page"));
  await assert.rejects(asking, /closed the page/);
});
