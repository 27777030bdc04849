import { CkptError, engineKey } from '@ckpt/contract'

export interface SglangTls {
  /** Authorities to trust instead of the system's, PEM. */
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
}

/** Where SGLang is, and what surrounds an update. */
export interface SglangOptions {
  /** Base URL of the server, or of each rank's instance. With `socketPath` only its path counts. */
  readonly url: string | ((rank: number) => string)
  /** Unix socket to reach it through. */
  readonly socketPath?: string | ((rank: number) => string)
  /** Ranks (tensor × pipeline parallel) of one server; consecutive ranks belong together. */
  readonly parallelSize: number
  /**
   * What its workers speak: `checkpoint-engine` (default) with the stock package, `ckpt` where this project's plug-in is installed in
   * SGLang's environment; only that compares digests.
   */
  readonly protocol?: 'checkpoint-engine' | 'ckpt'
  /** SGLang's `--api-key` or `--admin-api-key`. */
  readonly apiKey?: string
  /**
   * With the protocol `ckpt`: the key that the engine's workers ask for, in which this process and the engine must agree (default: `CKPT_ENGINE_KEY`, else the file
   * that `CKPT_ENGINE_KEY_FILE` names, else a secret of this machine's user). `false`: the engine has `CKPT_ENGINE_KEY=off` in its environment and takes
   * updates from everybody who reaches it.
   */
  readonly engineKey?: string | false
  readonly tls?: SglangTls
  /**
   * How requests are kept off during the update (default `retract`: running ones go back to the queue and are computed again; `abort`
   * ends them, `in_place` keeps their caches). Without it (`none`) SGLang waits until all running requests are done.
   */
  readonly pause?: 'abort' | 'retract' | 'in_place' | 'none'
  /**
   * Drop the prefix cache of the old weights, HiCache's storage included (default true; not with `in_place`, where SGLang refuses). Where SGLang keeps it
   * the update fails and requests stay paused.
   */
  readonly flushCache?: boolean
}

/** @throws CkptError `INVALID_ARGUMENT` naming the option. */
export function checkOptions({ url, parallelSize, engineKey: key }: SglangOptions): void {
  if (key !== undefined) engineKey(key)
  if (!Number.isSafeInteger(parallelSize) || parallelSize < 1)
    throw invalid('parallelSize', `${parallelSize} is no whole number above 0`)
  if (typeof url === 'string' && !/^https?:$/.test(protocolOf(url))) throw invalid('url', `${url} is no http or https URL`)
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
