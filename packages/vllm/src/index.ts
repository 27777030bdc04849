/**
 * Updates the weights of a running vLLM server in place.
 *
 * @packageDocumentation
 */
export { vllm } from './vllm.ts'
export type { VllmEvent, VllmOptions, VllmTls } from './options.ts'
