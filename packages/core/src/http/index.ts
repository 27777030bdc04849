/**
 * The HTTP API of one rank: checkpoint-engine's routes, and room for others.
 *
 * @packageDocumentation
 */
export { serveHttp, type HttpServer } from './serve.ts'
export type { HttpOptions, HttpPlugin } from './options.ts'
export type { UpdateRequest } from './schemas.ts'
export { collectiveCall } from './collective-call.ts'
export { live } from './live/plugin.ts'
