import type { CkptError } from '@ckpt/contract'
import { serve } from '@ckpt/p2p'
import { rendezvousOptionsFromEnv } from '@ckpt/rendezvous'
import type { ParameterServerOptions } from './options.ts'

/** Starts the endpoints through which others read this rank's memory; none if the options say so. */
export async function rankEndpoints(
  options: ParameterServerOptions,
  note: (error: CkptError) => void,
): ReturnType<typeof serve> {
  if (options.serve === false) return []
  const { rendezvous: met } = options
  const meetingPoint = typeof met === 'string' ? met : rendezvousOptionsFromEnv(process.env).address
  return serve(options.serve ?? {}, process.env, meetingPoint, note)
}
