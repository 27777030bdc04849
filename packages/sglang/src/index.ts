/**
 * Updates the weights of a running SGLang server in place, and checks the result.
 *
 * @packageDocumentation
 */
export { sglang } from './sglang.ts'
export type { SglangOptions, SglangTls } from './options.ts'
