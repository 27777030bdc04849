import { mkdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { addonPackages, bundleJavaScript, ROOT } from '@ckpt/bundle'

/** What tests start again and again, as processes of their own. */
const PROGRAMS = [
  'apps/cli/src/main.ts',
  'packages/testing/src/cluster/rank-main.ts',
  'apps/harness/src/http/serve-main.ts',
  'packages/testing/src/engine/main.ts',
]

/**
 * vitest's global set-up: bundles these programs from the sources once, since a process that compiles them as it starts needs about a
 * second of a core for that. HARNESS_PROGRAMS names the file that lists the bundle of each source.
 */
export async function setup(): Promise<() => void> {
  const home = join(ROOT, 'build', `test-programs-${process.pid}`)
  const remove = () => rmSync(home, { recursive: true, force: true })
  process.on('exit', remove)
  const lib = join(home, 'lib')
  const addons = addonPackages()
  mkdirSync(join(lib, 'node_modules/@ckpt'), { recursive: true })
  for (const { name, dir } of addons) symlinkSync(join(ROOT, dir), join(lib, 'node_modules', name))
  const zeromq = createRequire(join(ROOT, 'packages/rendezvous/package.json')).resolve('zeromq/package.json')
  symlinkSync(realpathSync(dirname(zeromq)), join(lib, 'node_modules/zeromq'))
  symlinkSync(join(ROOT, 'packages/python/src'), join(home, 'python'))

  const first = new Map(PROGRAMS.map((source) => [nameOf(source), source]))
  await bundleJavaScript({ outdir: lib, external: ['zeromq', ...addons.map(({ name }) => name)], first })
  const index = Object.fromEntries(PROGRAMS.map((source) => [join(ROOT, source), join(lib, `${nameOf(source)}.mjs`)]))
  writeFileSync(join(home, 'programs.json'), JSON.stringify(index))
  process.env['HARNESS_PROGRAMS'] = join(home, 'programs.json')
  return remove
}

const nameOf = (source: string): string => source.replace(/^apps\/|src\/|\.ts$/g, '').replaceAll('/', '-')
