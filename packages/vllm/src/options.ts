import { CkptError, engineKey } from '@ckpt/contract'

/** What the adapter tells of while it waits, and of what the engine's version lacks. */
export type VllmEvent =
  | { readonly kind: 'waiting'; readonly rank: number; readonly elapsedMs: number; readonly reason: string }
  | { readonly kind: 'ready'; readonly rank: number; readonly elapsedMs: number }
  /** This version of vLLM does not have it; the update goes on without. */
  | {
      readonly kind: 'unsupported'
      readonly feature: 'pause' | 'prefix cache reset' | 'external cache reset' | 'version'
      readonly reason: string
    }
  /** The engine stays paused, because its weights are partly new: the next update that succeeds resumes it. */
  | { readonly kind: 'left-paused'; readonly reason: string }

/** For `https:` engines; PEM texts. */
export interface VllmTls {
  /** Certificate authority to trust instead of the system's. */
  readonly ca?: string | readonly string[]
  /** The client's own certificate and key. */
  readonly cert?: string
  readonly key?: string
  /** Name that the engine's certificate must bear (default: the host of the URL). */
  readonly servername?: string
}

/** How a vLLM engine is reached and what is done around an update. */
export interface VllmOptions {
  /** Base URL of the engine that the rank's worker belongs to, such as `http://127.0.0.1:8000`. */
  readonly url?: string | ((rank: number) => string)
  /** Instead of `url`: the unix socket that vLLM listens on (its `--uds`). */
  readonly socketPath?: string | ((rank: number) => string)
  /** Workers of one engine instance: tensor × pipeline × data parallel. The ranks of an instance are consecutive. */
  readonly parallelSize: number
  /** vLLM's `--api-key`. It guards `/v1` only: see `engineKey`. */
  readonly apiKey?: string
  /**
   * The key that the engine's workers ask for, in which this process and the engine must agree (default: `CKPT_ENGINE_KEY`, else the file
   * that `CKPT_ENGINE_KEY_FILE` names, else a secret of this machine's user). `false`: the engine has `CKPT_ENGINE_KEY=off` in its environment and takes
   * updates from everybody who reaches it.
   */
  readonly engineKey?: string | false
  readonly tls?: VllmTls
  /** More headers for every request. */
  readonly headers?: Readonly<Record<string, string>>
  /**
   * What becomes of requests during the update (default `keep`): `keep` freezes them and lets them go on with the new weights, `wait`
   * lets them finish first, `abort` ends them; `false` does not pause.
   */
  readonly pause?: 'keep' | 'wait' | 'abort' | false
  /**
   * Drop the prefix cache, which was computed with the old weights (default true), also the part that a connector (LMCache, Mooncake) keeps outside of
   * the engine. Requests that were frozen are then computed again from their tokens.
   */
  readonly resetPrefixCache?: boolean
  /** Whether the speculative drafter takes the weights too (default `auto`: where it comes from the same checkpoint). */
  readonly drafter?: 'auto' | 'load' | 'skip'
  /** Whether parameters that the checkpoint does not bring are an error (default true). */
  readonly complete?: boolean
  /**
   * Which plug-in of vLLM takes the weights (default `extension`): this project's worker extension, this project's backend of vLLM's own
   * weight transfer (`--weight-transfer-config '{"backend":"ckpt"}'`), or checkpoint-engine's stock worker extension.
   */
  readonly via?: 'extension' | 'weight-transfer' | 'checkpoint-engine'
  readonly onEvent?: (event: VllmEvent) => void
}

/** @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function checkOptions(options: VllmOptions): void {
  const { url, socketPath, parallelSize } = options
  if ((url === undefined) === (socketPath === undefined)) throw invalid('url', 'give either url or socketPath')
  if (!Number.isInteger(parallelSize) || parallelSize < 1) {
    throw invalid('parallelSize', `parallelSize is ${parallelSize}, not a whole number above 0`)
  }
  if (typeof url === 'string') parseUrl(url)
  if (options.engineKey !== undefined) engineKey(options.engineKey)
}

/** @throws CkptError `INVALID_ARGUMENT`. */
export function parseUrl(text: string): URL {
  let url: URL
  try {
    url = new URL(text)
  } catch (error) {
    throw invalid('url', `url is not a URL: ${text}`, error)
  }
  if (url.protocol === 'http:' || url.protocol === 'https:') return url
  throw invalid('url', `url must begin with http: or https:, not ${url.protocol}`)
}

function invalid(field: string, message: string, cause?: unknown): CkptError {
  return new CkptError('INVALID_ARGUMENT', `vllm: ${message}`, { fields: { field }, cause })
}
