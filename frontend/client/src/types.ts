/** Names for what the generated description says, so that nobody has to spell paths. */

import type { paths } from "./schema.js";

type Answer<O, S extends number> = O extends { responses: Record<S, { content: infer C }> }
  ? C extends { "application/json": infer T }
    ? T
    : never
  : never;
type Body<O> = O extends { requestBody: { content: { "application/json": infer T } } } ? T : never;
type Lines<O> = O extends { responses: Record<200, { content: { "application/x-ndjson": infer T } }> }
  ? T
  : never;
type Query<O> = O extends { parameters: { query?: infer Q } } ? NonNullable<Q> : never;

type Get<P extends keyof paths> = paths[P] extends { get: infer O } ? O : never;
type Post<P extends keyof paths> = paths[P] extends { post: infer O } ? O : never;

type Changes = Post<"/v1/changes">;
type OneDocument = Get<"/v1/namespaces/{namespace}/documents/{document_id}">;
type Listing = Get<"/v1/namespaces/{namespace}/documents">;
type Search = Post<"/v1/namespaces/{namespace}/search">;

/** One change: insert, update or delete. */
export type Change = Exclude<Body<Changes>, { changes: unknown }>;
type ListAnswer = Extract<Answer<Changes, 202>, { results: unknown }>;
/** A change that is durable. */
export type ChangeResult = Exclude<Answer<Changes, 202>, { results: unknown }>;
/** Of a list: a result, or the `error` that kept this one change out. */
export type ListResult = ListAnswer["results"][number];

export type Document = Answer<OneDocument, 200>;
export type Summary = Answer<Listing, 200>["documents"][number];
export type Status = Document["status"];
export type ListingFilter = Pick<Query<Listing>, "status" | "prefix">;
export type Chunk = Answer<
  Get<"/v1/namespaces/{namespace}/documents/{document_id}/chunks">,
  200
>["chunks"][number];
export type Event = Answer<
  Get<"/v1/namespaces/{namespace}/documents/{document_id}/history">,
  200
>["events"][number];

export type SearchRequest = Body<Search>;
export type SearchAnswer = Answer<Search, 200>;
export type Hit = SearchAnswer["hits"][number];

export type Stats = Answer<Get<"/v1/stats">, 200>;
export type DeadLetter = Answer<Get<"/v1/dead-letters/{message_id}">, 200>;
export type LetterFilter = Pick<Query<Get<"/v1/dead-letters">>, "namespace" | "document_id">;
/** `message_ids`, or `all` with what they are of. */
export type Letters = Body<Post<"/v1/dead-letters/redrive">>;
export type ScrubLine = Lines<Post<"/v1/scrub">>;
export type ScrubReport = Extract<ScrubLine, { report: unknown }>["report"];
export type ScrubProgress = Extract<ScrubLine, { progress: unknown }>["progress"];
export type AuditEntry = Answer<Get<"/v1/audit">, 200>["entries"][number];
export type AuditFilter = Pick<Query<Get<"/v1/audit">>, "namespace" | "document_id" | "since">;

/** An RFC 9457 problem as the service states it. */
export interface Problem {
  status: number;
  title: string;
  type?: string;
  detail?: string;
  field?: string;
  limit?: unknown;
  /** With a 412: the last accepted version of the document, 0: there is none. */
  version?: number;
  retry_after_seconds?: number;
}
