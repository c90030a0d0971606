/**
 * The service's HTTP API for pages and for Node. Types come from the service's own description;
 * here is where requests go, what is sent again, and how a change is waited for.
 */

import { ApiError, BloomWeaverError, DocumentFailedError, UnreachableError, WaitTimeoutError } from "./errors.js";
import { NOT_APPLIED, pauseBefore, secondsOf } from "./retry.js";
import type {
  AuditEntry,
  AuditFilter,
  Change,
  ChangeResult,
  Chunk,
  DeadLetter,
  Document,
  Event,
  LetterFilter,
  Letters,
  ListResult,
  ListingFilter,
  Problem,
  ScrubLine,
  ScrubProgress,
  ScrubReport,
  SearchAnswer,
  SearchRequest,
  Stats,
  Summary,
} from "./types.js";

export interface Options {
  /** An API key, or a person's token of an issuer that the service knows. A function is asked before each try. */
  apiKey?: string | (() => string | Promise<string>);
  /** Of each try; one that the service is asked to wait with has that long on top. */
  timeoutSeconds?: number;
  /** For so long what may pass is tried again; 0: not at all. */
  retrySeconds?: number;
  signal?: AbortSignal;
}

/** `wait`: return once searches find it, within 60 s or as many as are given. */
export interface Waiting {
  wait?: boolean | number;
}

type Members<K extends Change["change_type"]> = Omit<Change, "change_type" | "document_id"> &
  Waiting & { change_type?: K };
type Query = Record<string, string | number | undefined>;

interface Sent {
  method?: "GET" | "POST";
  query?: Query;
  body?: unknown;
  headers?: Record<string, string>;
  waitSeconds?: number;
  /** Not tried again: a second might do more than the first. */
  once?: boolean;
}

const PAGE_SIZE = 500;
const WAIT_SECONDS = 60;
const LONGEST_LOOK_SECONDS = 30;
const LOOK_AGAIN_SECONDS = 0.05;

export class BloomWeaver {
  readonly url: string;
  readonly #options: Options;
  readonly #timeoutSeconds: number;
  readonly #retrySeconds: number;

  constructor(url: string, options: Options = {}) {
    this.url = url.replace(/\/+$/, "");
    this.#options = options;
    this.#timeoutSeconds = options.timeoutSeconds ?? 60;
    this.#retrySeconds = options.retrySeconds ?? 60;
  }

  // --- changes ---

  /** The document is this from now on, whether or not it existed. `if_version` 0: only if not. */
  insert(documentId: string, members: Members<"insert">): Promise<ChangeResult> {
    const { wait, ...change } = members;
    return this.change({ ...change, change_type: "insert", document_id: documentId }, { wait });
  }

  /** As `insert` for what is given; what is not given stays. */
  update(documentId: string, members: Members<"update">): Promise<ChangeResult> {
    const { wait, ...change } = members;
    return this.change({ ...change, change_type: "update", document_id: documentId }, { wait });
  }

  delete(documentId: string, members: Members<"delete"> = {}): Promise<ChangeResult> {
    const { wait, ...change } = members;
    return this.change({ ...change, change_type: "delete", document_id: documentId }, { wait });
  }

  async change(change: Change, { wait }: { wait?: boolean | number | undefined } = {}): Promise<ChangeResult> {
    const result = await this.#json<ChangeResult>("/v1/changes", keyed(change));
    await this.#waitIfAsked([result], wait);
    return result;
  }

  /** A list, checked as a whole; a change that shows only in its turn to be wrong has an `error`. */
  async submit(changes: Change[], { wait }: Waiting = {}): Promise<ListResult[]> {
    const { results } = await this.#json<{ results: ListResult[] }>("/v1/changes", keyed({ changes }));
    await this.#waitIfAsked(results, wait);
    return results;
  }

  // --- documents ---

  /** Where it stands; with `wait`, once it shows `minVersion` or the version accepted last. */
  document(
    documentId: string,
    { namespace = "default", minVersion, wait }: { namespace?: string; minVersion?: number } & Waiting = {},
  ): Promise<Document> {
    const seconds = secondsToWait(wait);
    return this.#json<Document>(documentPath(namespace, documentId), {
      query: { min_version: minVersion, wait: seconds },
      waitSeconds: seconds ?? 0,
    });
  }

  /** All that match, page by page as you go. */
  documents({ namespace = "default", ...filter }: { namespace?: string } & ListingFilter = {}): AsyncGenerator<Summary> {
    return this.#pages<Summary>(`${namespacePath(namespace)}/documents`, "documents", filter);
  }

  chunks(documentId: string, { namespace = "default" } = {}): AsyncGenerator<Chunk> {
    return this.#pages<Chunk>(`${documentPath(namespace, documentId)}/chunks`, "chunks");
  }

  /** What happened to it, the newest first. */
  history(documentId: string, { namespace = "default" } = {}): AsyncGenerator<Event> {
    return this.#pages<Event>(`${documentPath(namespace, documentId)}/history`, "events");
  }

  /** The bytes of the last accepted version. */
  async content(documentId: string, { namespace = "default" } = {}): Promise<Blob> {
    return this.#send(`${documentPath(namespace, documentId)}/content`, {}, (response) => response.blob());
  }

  search(
    query: string,
    { namespace = "default", wait, ...more }: Omit<SearchRequest, "query" | "wait"> & { namespace?: string } & Waiting = {},
  ): Promise<SearchAnswer> {
    const seconds = secondsToWait(wait);
    const body = { query, ...more, ...(seconds === undefined ? {} : { wait: seconds }) };
    const path = `${namespacePath(namespace)}/search`;
    return this.#json<SearchAnswer>(path, { method: "POST", body, waitSeconds: seconds ?? 0 });
  }

  // --- the service ---

  stats(): Promise<Stats> {
    return this.#json<Stats>("/v1/stats");
  }

  deadLetters(filter: LetterFilter = {}): AsyncGenerator<DeadLetter> {
    return this.#pages<DeadLetter>("/v1/dead-letters", "dead_letters", filter);
  }

  /** Returns how many were sent round again. Not tried again: a second might meet letters that came since. */
  async redrive(which: Letters): Promise<number> {
    const sent: Sent = { method: "POST", body: which, once: true };
    return (await this.#json<{ redriven: number }>("/v1/dead-letters/redrive", sent)).redriven;
  }

  /** Returns how many are gone for good. Not tried again. */
  async discard(which: Letters): Promise<number> {
    const sent: Sent = { method: "POST", body: which, once: true };
    return (await this.#json<{ discarded: number }>("/v1/dead-letters/discard", sent)).discarded;
  }

  audit(filter: AuditFilter = {}): AsyncGenerator<AuditEntry> {
    return this.#pages<AuditEntry>("/v1/audit", "entries", filter);
  }

  /** Compares index, registry and contents. Takes its time, and is not tried again. */
  async scrub(
    which: { namespace?: string; repair?: boolean } = {},
    onProgress: (progress: ScrubProgress) => void = () => {},
  ): Promise<ScrubReport> {
    const response = await this.#once("/v1/scrub", { method: "POST", body: which }, null);
    for await (const line of linesOf(response)) {
      const told = JSON.parse(line) as ScrubLine;
      if ("report" in told) return told.report;
      if ("error" in told) throw new ApiError(told.error as Problem);
      onProgress(told.progress);
    }
    throw new UnreachableError(this.url, "the answer ended before the report");
  }

  // --- waiting ---

  /** Until searches find all of them. Throws DocumentFailedError, WaitTimeoutError. */
  async waitSearchable(results: ListResult[], { wait = true }: Waiting = {}): Promise<void> {
    const ends = now() + (secondsToWait(wait) ?? 0);
    for (const result of results) {
      if ("version" in result && result.version > 0) await this.#settled(result, ends);
    }
  }

  async #waitIfAsked(results: ListResult[], wait: boolean | number | undefined): Promise<void> {
    const seconds = secondsToWait(wait);
    if (seconds !== undefined) await this.waitSearchable(results, { wait: seconds });
  }

  async #settled({ namespace, document_id, version }: ChangeResult, ends: number): Promise<void> {
    for (;;) {
      const left = ends - now();
      if (left <= 0) throw new WaitTimeoutError(`${document_id} (version ${version}) is not searchable in time`);
      const seen = await this.#look(document_id, namespace, version, Math.min(left, LONGEST_LOOK_SECONDS));
      if (seen === null || seen.applied.version >= version || seen.status === "DELETED") return;
      if (seen.status === "FAILED") {
        throw new DocumentFailedError(document_id, version, seen.error ?? "no reason given");
      }
      await pause(LOOK_AGAIN_SECONDS, this.#options.signal);
    }
  }

  /** The service does the waiting. null: it is forgotten by now. */
  async #look(id: string, namespace: string, minVersion: number, wait: number): Promise<Document | null> {
    try {
      return await this.document(id, { namespace, minVersion, wait });
    } catch (error) {
      if (error instanceof WaitTimeoutError) return this.document(id, { namespace });
      if (error instanceof ApiError && error.status === 404) return null;
      throw error;
    }
  }

  // --- requests ---

  async *#pages<T>(path: string, member: string, filter: Query = {}): AsyncGenerator<T> {
    let cursor: string | undefined;
    do {
      const query = { ...filter, limit: PAGE_SIZE, cursor };
      const page = await this.#json<Record<string, unknown>>(path, { query });
      yield* page[member] as T[];
      cursor = (page["cursor"] as string | null) ?? undefined;
    } while (cursor !== undefined);
  }

  async #json<T>(path: string, sent: Sent = {}): Promise<T> {
    return this.#send(path, sent, async (response) => this.#object<T>(response.status, await response.text()));
  }

  /** Throws for what is no JSON object, the page of a proxy say: no other try would change that. */
  #object<T>(status: number, text: string): T {
    const value = parsed(text);
    if (value === null) {
      throw new ApiError({ status, title: `what answers at ${this.url} does not speak BloomWeaver's API` });
    }
    return value as T;
  }

  /** Tried again while that makes sense, until its body is read. */
  async #send<T>(path: string, sent: Sent, read: (response: Response) => Promise<T>): Promise<T> {
    const ends = now() + this.#retrySeconds;
    for (let failures = 0; ; failures++) {
      try {
        const response = await this.#once(path, sent, this.#timeoutSeconds + (sent.waitSeconds ?? 0));
        return await this.#whole(read(response));
      } catch (error) {
        const seconds = sent.once ? null : pauseBefore(error, failures, ends - now());
        if (seconds === null) throw asWait(error);
        await pause(seconds, this.#options.signal);
      }
    }
  }

  /** Of a body that is being read. */
  async #whole<T>(body: Promise<T>): Promise<T> {
    try {
      return await body;
    } catch (error) {
      throw error instanceof BloomWeaverError ? error : this.#broken(error);
    }
  }

  async #once(path: string, sent: Sent, timeoutSeconds: number | null): Promise<Response> {
    const { method = "GET", query = {}, body, headers = {} } = sent;
    const key = await this.#key();
    const response = await this.#fetched(this.url + path + searchOf(query), {
      method,
      credentials: "omit",
      redirect: "manual",
      headers: {
        ...headers,
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...(key ? { Authorization: `Bearer ${key}` } : {}),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: this.#signal(timeoutSeconds),
    });
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async #fetched(url: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(url, init);
    } catch (error) {
      throw this.#broken(error);
    }
  }

  /** An abort of the caller's is the caller's; anything else is the connection's end. */
  #broken(error: unknown): unknown {
    if (this.#options.signal?.aborted) return error;
    const late = error instanceof DOMException && error.name === "TimeoutError";
    const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
    return new UnreachableError(this.url, late ? "no answer in time" : String(cause));
  }

  async #key(): Promise<string> {
    const { apiKey } = this.#options;
    return typeof apiKey === "function" ? apiKey() : (apiKey ?? "");
  }

  #signal(timeoutSeconds: number | null): AbortSignal | null {
    const own = this.#options.signal ? [this.#options.signal] : [];
    const late = timeoutSeconds === null ? [] : [AbortSignal.timeout(Math.ceil(timeoutSeconds * 1000))];
    return AbortSignal.any([...own, ...late]);
  }
}

/** A change's request, with a name of its own: sent again it is answered as it was, and done once. */
function keyed(body: unknown): Sent {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const name = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { method: "POST", body, headers: { "Idempotency-Key": name } };
}

async function refusal(response: Response): Promise<ApiError> {
  const unknown: Problem = { status: response.status, title: `${response.status} ${response.statusText}` };
  const told: unknown = await response.json().catch(() => null);
  const problem: Problem = told !== null && typeof told === "object" ? { ...unknown, ...told } : unknown;
  problem.retry_after_seconds ??= secondsOf(response.headers.get("Retry-After"));
  return new ApiError(problem, response.headers.get("X-Request-Id"));
}

/** The object in a body; null: there is none. */
function parsed(text: string): object | null {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function asWait(error: unknown): unknown {
  const waited = error instanceof ApiError && error.kind === NOT_APPLIED;
  return waited ? new WaitTimeoutError(error.message) : error;
}

async function* linesOf(response: Response): AsyncGenerator<string> {
  let held = "";
  for await (const text of (response.body ?? new ReadableStream()).pipeThrough(new TextDecoderStream())) {
    const lines = (held + text).split("\n");
    held = lines.pop() ?? "";
    yield* lines.filter((line) => line.trim());
  }
  if (held.trim()) yield held;
}

/** undefined: not at all. 0 is a wait too: for what is there already. */
function secondsToWait(wait: boolean | number | undefined): number | undefined {
  if (wait === undefined || wait === false) return undefined;
  // To the millisecond: the service reads no exponents.
  return wait === true ? WAIT_SECONDS : Math.ceil(wait * 1000) / 1000;
}

function pause(seconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}

function now(): number {
  return performance.now() / 1000;
}

function searchOf(query: Query): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text && `?${text}`;
}

function namespacePath(namespace: string): string {
  return `/v1/namespaces/${quoted(namespace)}`;
}

/** Throws for what fetch takes out of paths, however it is encoded: another address would be asked. */
function documentPath(namespace: string, documentId: string): string {
  if (documentId === "." || documentId === "..") {
    throw new BloomWeaverError(`a document named ${documentId} has no address that fetch can ask`);
  }
  return `${namespacePath(namespace)}/documents/${quoted(documentId)}`;
}

function quoted(name: string): string {
  return encodeURIComponent(name);
}
