import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'

export const ROOT = join(import.meta.dirname, '../..')

/** Calls a function of a module in scripts/lib in a process of its own, as the scripts themselves do, with plain Node. */
export function call(module: string, name: string, ...args: unknown[]): unknown {
  const url = new URL(`../lib/${module}`, import.meta.url).href
  const code = `import { ${name} } from ${JSON.stringify(url)}
process.stdout.write(JSON.stringify((await ${name}(...${JSON.stringify(args)})) ?? null))`
  return JSON.parse(execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' })) as unknown
}

/** A directory with the given files that is removed when it goes out of scope. */
export function fixture(files: Record<string, string>): Disposable & { readonly path: string } {
  const path = realpathSync(mkdtempSync(join(tmpdir(), 'ckpt-scripts-')))
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true })
    writeFileSync(join(path, name), text)
  }
  return {
    path,
    [Symbol.dispose]() {
      rmSync(path, { recursive: true, force: true })
    },
  }
}
