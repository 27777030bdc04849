import { CkptError, engineKey } from '@ckpt/contract'

/** Events that the adapter reports while it waits, and about features that the engine's version lacks. */
export type VllmEvent =
  | { readonly kind: 'waiting'; readonly rank: number; readonly elapsedMs: number; readonly reason: string }
  | { readonly kind: 'ready'; readonly rank: number; readonly elapsedMs: number }
  /** This version of vLLM lacks the feature; the update continues without it. */
  | {
      readonly kind: 'unsupported'
      readonly feature: 'pause' | 'prefix cache reset' | 'external cache reset' | 'version'
      readonly reason: string
    }
  /** The engine stays paused, because its weights are partly new: the next successful update resumes it. */
  | { readonly kind: 'left-paused'; readonly reason: string }

/** For `https:` engines; PEM texts. */
export interface VllmTls {
  /** Certificate authority to trust instead of the system's. */
  readonly ca?: string | readonly string[]
  /** The client's own certificate and key. */
  readonly cert?: string
  readonly key?: string
  /** Name that the engine's certificate must contain (default: the host of the URL). */
  readonly servername?: string
}

/** Address of a vLLM engine and actions around an update. */
export interface VllmOptions {
  /** Base URL of the engine that the rank's worker belongs to, such as `http://127.0.0.1:8000`. */
  readonly url?: string | ((rank: number) => string)
  /** Instead of `url`: the unix socket that vLLM listens on (its `--uds`). */
  readonly socketPath?: string | ((rank: number) => string)
  /** Number of workers of one engine instance: tensor × pipeline × data parallel. The ranks of an instance are consecutive. */
  readonly parallelSize: number
  /** vLLM's `--api-key`. It protects only `/v1`: see `engineKey`. */
  readonly apiKey?: string
  /**
   * Key that the engine's workers require, which must be the same for this process and the engine (default: `CKPT_ENGINE_KEY`,
   * otherwise the file that `CKPT_ENGINE_KEY_FILE` names, otherwise a secret of this machine's user). `false`: the engine has
   * `CKPT_ENGINE_KEY=off` in its environment and accepts updates from anyone who reaches it.
   */
  readonly engineKey?: string | false
  readonly tls?: VllmTls
  /** Additional headers for every request. */
  readonly headers?: Readonly<Record<string, string>>
  /**
   * Handling of requests during the update (default `keep`): `keep` freezes them and resumes them with the new weights, `wait`
   * lets them finish first, `abort` ends them; `false` does not pause.
   */
  readonly pause?: 'keep' | 'wait' | 'abort' | false
  /**
   * Drop the prefix cache, which was computed with the old weights (default true), including the part that a connector
   * (LMCache, Mooncake) keeps outside the engine. Paused requests are then computed again from their tokens.
   */
  readonly resetPrefixCache?: boolean
  /** Handling of the speculative drafter (default `auto`: it takes the weights if it comes from the same checkpoint). */
  readonly drafter?: 'auto' | 'load' | 'skip'
  /** True (default) if parameters that the checkpoint lacks are an error. */
  readonly complete?: boolean
  /**
   * Plug-in of vLLM that takes the weights (default `extension`): this project's worker extension, this project's backend of
   * vLLM's own weight transfer (`--weight-transfer-config '{"backend":"ckpt"}'`), or checkpoint-engine's stock worker
   * extension.
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
