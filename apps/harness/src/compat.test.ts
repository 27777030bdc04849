import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { COMPAT_CHECKS, stockWorkerMissing, visibleGpus } from '@ckpt/testing'
import { describe, it } from 'vitest'

const local = fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
const gpus = await visibleGpus()
const missing = stockWorkerMissing(python)

describe.each(['stand-in', 'cuda'] as const)("checkpoint-engine's stock worker, gpu: %s", { timeout: 120_000 }, (backend) => {
  it.for(COMPAT_CHECKS)('$name', async ({ ranks, run }, context) => {
    if (missing !== undefined) context.skip(missing)
    if (backend === 'cuda' && gpus < ranks) context.skip(`${ranks} GPUs are needed, there are ${gpus}`)
    await run({ python, backend })
  })
})
