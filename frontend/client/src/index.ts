export { BloomWeaver, type Options, type Waiting } from "./client.js";
export * from "./errors.js";
export type * from "./types.js";
