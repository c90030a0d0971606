import type { Problem } from "./types.js";

/** Whatever the client throws, but for an abort of your own signal. */
export class BloomWeaverError extends Error {
  constructor(message: string) {
    super(message);
    this.name = new.target.name;
  }
}

/** The service answered, and the answer is no. */
export class ApiError extends BloomWeaverError {
  constructor(
    readonly problem: Problem,
    readonly requestId: string | null = null,
  ) {
    const where = problem.field ? `${problem.field}: ` : "";
    super(where + (problem.detail || problem.title));
  }
  get status(): number {
    return this.problem.status;
  }
  /** The last part of the problem's type: `precondition-failed`. */
  get kind(): string {
    return this.problem.type?.split(":").at(-1) ?? "";
  }
}

/** Nothing answered, or the connection was lost, or the answer took too long. */
export class UnreachableError extends BloomWeaverError {
  constructor(url: string, reason: string) {
    super(`cannot reach the service at ${url} (${reason})`);
  }
}

/** The service gave the document up: no search will see this version. */
export class DocumentFailedError extends BloomWeaverError {
  constructor(
    readonly documentId: string,
    readonly version: number,
    readonly reason: string,
  ) {
    super(`${documentId} (version ${version}) FAILED: ${reason}`);
  }
}

/** It was not searchable in time. The change is accepted all the same, and will be. */
export class WaitTimeoutError extends BloomWeaverError {}
