import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { run } from '../lib/process.mjs'
import { ROOT } from '../lib/root.mjs'
import type { Packed } from './pack.ts'

/** What publint and "are the types wrong" say of a tarball; empty when both are content. Packages without entry points get publint alone. */
export async function lintTarball({ file, platform }: Packed): Promise<string[]> {
  const bytes = readFileSync(file)
  const tarball = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)
  const { messages, pkg } = await publint({ pack: { tarball }, strict: true })
  const problems = messages.map((message) => `publint: ${formatMessage(message, pkg, { color: false })}`)
  const { exports = {} } = pkg as { exports?: object }
  const entries = Object.keys(exports).filter((entry) => /^\.(\/[\w-]+)?$/.test(entry))
  if (platform || entries.length === 0) return problems
  const attw = join(ROOT, 'node_modules/@arethetypeswrong/cli/dist/index.js')
  // ESM only, on purpose: require() of it works from Node 22 on.
  const { code, output } = await run(
    process.execPath,
    [attw, file, '--profile', 'esm-only', '--no-color', '--format', 'ascii'],
    {
      capture: true,
    },
  )
  return code === 0 ? problems : [...problems, `attw: ${output.trim()}`]
}
