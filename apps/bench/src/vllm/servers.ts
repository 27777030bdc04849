import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { CkptError } from '@ckpt/contract'
import { vllmPythonPath, VllmServer, vllmVariables, type VllmSettings } from '@ckpt/testing'
import { z } from 'zod'

const EXTENSION = fileURLToPath(new URL('./ckpt_bench_extension.py', import.meta.url))
/** Two servers that take stock of the same GPU's memory at the same moment may refuse to start. */
const STAGGER_MS = 3000
const HOST_KV_BYTES = 2 ** 28
const CUDA_KV_BYTES = 2 ** 30
/** Tokens of one request: enough for a stream that lasts as long as an update. */
const MAX_TOKENS = 2048

export interface ServersOptions {
  readonly python: string
  readonly backend: 'host' | 'cuda'
  readonly ranks: number
  /** Further arguments of vLLM; they override the bench's own. */
  readonly engineArguments: readonly string[]
  /** The updated server takes updates from checkpoint-engine too. */
  readonly peer: boolean
  readonly directories: { readonly A: string; readonly B: string }
  /** Deadline for both to be healthy, in milliseconds. */
  readonly timeoutMs: number
  /** Directory for their whole output, as `vllm-a.log` and `vllm-b.log`. */
  readonly logs?: string
  readonly say: (step: string) => void
}

/** The server that is updated and the one that tells what is right. */
export interface Servers extends AsyncDisposable {
  readonly A: VllmServer
  readonly B: VllmServer
}

/**
 * Starts two servers of real vLLM side by side and waits until both are healthy.
 *
 * @throws CkptError `ENGINE_UNREACHABLE` with the end of the output of the one that ended, or was not healthy in time.
 */
export async function startServers(options: ServersOptions): Promise<Servers> {
  const home = mkdtempSync(join(tmpdir(), 'ckpt-bench-vllm-'))
  const started: VllmServer[] = []
  const dispose = async () => {
    await Promise.all(started.map((server) => server.stop()))
    rmSync(home, { recursive: true, force: true })
  }
  try {
    // Alone in a directory, so that nothing else comes onto the path.
    copyFileSync(EXTENSION, join(home, basename(EXTENSION)))
    const deadline = performance.now() + options.timeoutMs
    const A = await start(options, 'A', home)
    started.push(A)
    await sleep(STAGGER_MS)
    const B = await start(options, 'B', home)
    started.push(B)
    await Promise.all([healthy(A, 'A', deadline, options.say), healthy(B, 'B', deadline, options.say)])
    return { A, B, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

function start(options: ServersOptions, which: 'A' | 'B', home: string): Promise<VllmServer> {
  const { python, ranks, engineArguments, peer, directories, logs } = options
  if (logs !== undefined) mkdirSync(logs, { recursive: true })
  return VllmServer.start({
    python,
    model: directories[which],
    loadFormat: 'auto',
    tensorParallelSize: ranks,
    settings: settingsOf(options.backend, home),
    extra: engineArguments,
    ...(peer && which === 'A' && { extension: 'ckpt_bench_extension.BothExtensions' }),
    ...(logs !== undefined && { log: join(logs, `vllm-${which.toLowerCase()}.log`) }),
  })
}

/** Small, so that two servers share a GPU; a user's arguments follow and override these. */
function settingsOf(backend: 'host' | 'cuda', home: string): VllmSettings {
  const common = ['--max-model-len', String(MAX_TOKENS), '--kv-cache-memory-bytes']
  if (backend === 'host') {
    return {
      arguments: [...common, String(HOST_KV_BYTES), '--max-num-seqs', '4', '--enforce-eager'],
      variables: vllmVariables(home),
    }
  }
  return {
    arguments: [...common, String(CUDA_KV_BYTES), '--max-num-seqs', '8', '--gpu-memory-utilization', '0.4'],
    variables: {
      PYTHONPATH: vllmPythonPath(home),
      VLLM_SERVER_DEV_MODE: '1',
      HF_HUB_OFFLINE: '1',
      TRANSFORMERS_OFFLINE: '1',
      VLLM_NO_USAGE_STATS: '1',
      DO_NOT_TRACK: '1',
    },
  }
}

async function healthy(server: VllmServer, which: string, deadline: number, say: (step: string) => void): Promise<void> {
  try {
    await server.ready(Math.max(0, deadline - performance.now()))
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new CkptError('ENGINE_UNREACHABLE', `vLLM server ${which} does not serve: ${reason}`, { cause: error })
  }
  say(`vLLM server ${which} is healthy at ${server.url}`)
}

const versionSchema = z.object({ version: z.string() })
const modelsSchema = z.object({ data: z.tuple([z.object({ max_model_len: z.int().positive() })]) })

/** What a running server tells about itself. */
export async function serverFacts(server: VllmServer): Promise<{ readonly version: string; readonly maxTokens: number }> {
  const { version } = versionSchema.parse(await get(server, '/version'))
  const { data } = modelsSchema.parse(await get(server, '/v1/models'))
  return { version, maxTokens: data[0].max_model_len }
}

async function get(server: VllmServer, path: string): Promise<unknown> {
  const answer = await fetch(server.url + path, { signal: AbortSignal.timeout(30_000) })
  if (!answer.ok) throw new CkptError('ENGINE_PROTOCOL', `${path} answered ${answer.status}: ${await answer.text()}`)
  return answer.json()
}
