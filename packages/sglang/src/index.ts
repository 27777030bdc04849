/**
 * Tells a running SGLang server to take new weights in place, and checks that it did.
 *
 * @packageDocumentation
 */
export { sglang } from './sglang.ts'
export type { SglangOptions, SglangTls } from './options.ts'
