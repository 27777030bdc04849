/**
 * Tells a running vLLM server to take new weights in place.
 *
 * @packageDocumentation
 */
export { vllm } from './vllm.ts'
export type { VllmEvent, VllmOptions, VllmTls } from './options.ts'
