import { CkptError, engineKey } from '@ckpt/contract'

export interface SglangTls {
  /** Certificate authorities to trust instead of the system's, PEM. */
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
  /** Name that the server's certificate must contain (default: the host of the URL). */
  readonly servername?: string
}

/** Address of SGLang, and actions around an update. */
export interface SglangOptions {
  /** Base URL of the server, or of each rank's instance. With `socketPath` only its path is used. */
  readonly url: string | ((rank: number) => string)
  /** Unix socket of the server. */
  readonly socketPath?: string | ((rank: number) => string)
  /** Number of ranks (tensor × pipeline parallel) of one server; its ranks are consecutive. */
  readonly parallelSize: number
  /**
   * Protocol of its workers: `checkpoint-engine` (default) with the stock package, `ckpt` if this project's plug-in is
   * installed in SGLang's environment; only the latter compares digests.
   */
  readonly protocol?: 'checkpoint-engine' | 'ckpt'
  /** SGLang's `--api-key` or `--admin-api-key`. */
  readonly apiKey?: string
  /**
   * With the protocol `ckpt`: key that the engine's workers require, which must be the same for this process and the engine
   * (default: `CKPT_ENGINE_KEY`, otherwise the file that `CKPT_ENGINE_KEY_FILE` names, otherwise a secret of this machine's
   * user). `false`: the engine has `CKPT_ENGINE_KEY=off` in its environment and accepts updates from anyone who reaches it.
   */
  readonly engineKey?: string | false
  readonly tls?: SglangTls
  /**
   * Method of pausing requests during the update (default `retract`: running ones go back to the queue and are computed again;
   * `abort` ends them, `in_place` keeps their caches). Without it (`none`) SGLang waits until all running requests are done.
   */
  readonly pause?: 'abort' | 'retract' | 'in_place' | 'none'
  /**
   * Drop the prefix cache of the old weights, including HiCache's storage (default true; not with `in_place`, where SGLang
   * refuses). If SGLang keeps the cache, the update fails and requests stay paused.
   */
  readonly flushCache?: boolean
}

/** @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function checkOptions({ url, parallelSize, engineKey: key }: SglangOptions): void {
  if (key !== undefined) engineKey(key)
  if (!Number.isSafeInteger(parallelSize) || parallelSize < 1)
    throw invalid('parallelSize', `${parallelSize} is not a whole number above 0`)
  if (typeof url === 'string' && !/^https?:$/.test(protocolOf(url))) throw invalid('url', `${url} is not an http or https URL`)
}

function protocolOf(url: string): string {
  try {
    return new URL(url).protocol
  } catch {
    return ''
  }
}

function invalid(field: string, message: string): CkptError {
  return new CkptError('INVALID_ARGUMENT', `${field}: ${message}`, { fields: { field } })
}
