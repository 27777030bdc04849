/** The checks of checkpoint-engine's stock worker as a program of their own, for GPU machines without a test runner. */
import { probeCuda } from '@ckpt/transport'
import { COMPAT_CHECKS, stockWorkerMissing } from './checks.ts'

const python = process.env['CKPT_PYTHON'] ?? 'python3'
const gpus = (await probeCuda().catch(() => undefined))?.devices.length ?? 0
const missing = stockWorkerMissing(python)
const counts = { passed: 0, failed: 0, skipped: 0 }
for (const check of COMPAT_CHECKS) {
  const { name, ranks } = check
  const reason = missing ?? (gpus < ranks ? `${ranks} GPUs are needed, there are ${gpus}` : undefined)
  if (reason !== undefined) {
    counts.skipped++
    process.stdout.write(`skip ${name}: ${reason}\n`)
    continue
  }
  const started = performance.now()
  try {
    await check.run({ python, backend: 'cuda' })
    counts.passed++
    process.stdout.write(`ok   ${name} (${(performance.now() - started).toFixed(0)} ms)\n`)
  } catch (error) {
    counts.failed++
    process.exitCode = 1
    process.stdout.write(`FAIL ${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
  }
}
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`)
