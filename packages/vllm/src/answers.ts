import { CkptError, type ErrorCode } from '@ckpt/contract'
import { z } from 'zod'
import type { HttpAnswer } from '@ckpt/utils'

// Errors in the form of vLLM, of FastAPI, and as plain text.
const messageSchema = z.union([
  z.object({ error: z.object({ message: z.string() }) }).transform(({ error }) => error.message),
  z.object({ error: z.string() }).transform(({ error }) => error),
  z.object({ detail: z.string() }).transform(({ detail }) => detail),
])

/**
 * Returns the answer's JSON if its status is below 300. @throws CkptError as for {@link engineError}, `ENGINE_PROTOCOL` if it
 * is not JSON.
 */
export function accept(what: string, peer: string, { status, text }: HttpAnswer): unknown {
  if (status < 200 || status >= 300) throw engineError(what, peer, { status, text })
  if (text.trim() === '') return undefined
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new CkptError('ENGINE_PROTOCOL', `${what} on ${peer} answered ${status} with something that is not JSON`, {
      cause,
      fields: { peer },
    })
  }
}

/**
 * Returns the error for an unsuccessful answer: `ENGINE_UNAUTHORIZED` (401, 403, or a worker that requires `CKPT_ENGINE_KEY`),
 * `UNSUPPORTED` (404, 405, or a worker without the extension), `ENGINE_WORKER_LOST` (the engine's core is dead), `ENGINE_BUSY`
 * (429), `ENGINE_WORKER_ERROR` (any other 5xx), `ENGINE_PROTOCOL` (any other 4xx).
 */
export function engineError(what: string, peer: string, { status, text }: HttpAnswer): CkptError {
  const message = messageOf(text)
  const hint = hintFor(what, status, message)
  const full = `${what} on ${peer} answered ${status}${message === '' ? '' : `: ${message}`}${hint === '' ? '' : ` (${hint})`}`
  return new CkptError(codeFor(status, message), full, { fields: { peer, status } })
}

function codeFor(status: number, message: string): ErrorCode {
  if (status === 401 || status === 403 || /CKPT_ENGINE_KEY/.test(message)) return 'ENGINE_UNAUTHORIZED'
  if (status === 404 || status === 405 || lacksExtension(message)) return 'UNSUPPORTED'
  if (status === 429) return 'ENGINE_BUSY'
  if (status >= 500)
    return /EngineCore|EngineDead|engine is dead|failed: cancelled$/i.test(message)
      ? 'ENGINE_WORKER_LOST'
      : 'ENGINE_WORKER_ERROR'
  return 'ENGINE_PROTOCOL'
}

const lacksExtension = (message: string) => /has no attribute '(ckpt_|update_weights_from_ipc)/.test(message)

function hintFor(what: string, status: number, message: string): string {
  if (status === 404 && what.includes('/collective_rpc')) return 'vLLM offers it with VLLM_SERVER_DEV_MODE=1'
  if (lacksExtension(message)) return 'start vLLM with --worker-extension-cls ckpt_worker.vllm.WorkerExtension'
  return ''
}

function messageOf(text: string): string {
  try {
    const parsed = messageSchema.safeParse(JSON.parse(text))
    if (parsed.success) return parsed.data.slice(0, 4000)
  } catch {
    // Not JSON: the text itself.
  }
  return text.trim().slice(0, 500)
}
