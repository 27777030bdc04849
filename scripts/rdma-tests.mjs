#!/usr/bin/env node
// Tests tagged rdma, in a VM with soft-RoCE: bundles what the guest runs, then boots it. Prints PASS, FAIL and SKIP lines.
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { addonPackages, copyAddons, copyZeromq } from './bundle/addons.mjs'
import { bundleJavaScript } from './bundle/javascript.mjs'
import { exitLike, run } from './lib/process.mjs'
import { ROOT } from './lib/root.mjs'
import { sourceArguments } from './lib/source.mjs'

const GUEST = 'packages/testing/src/rdma-vm/guest'
const PROGRAMS = new Map(['bindings', 'endpoint', 'pair', 'update'].map((name) => [name, `${GUEST}/${name}.ts`]))
const TIMEOUT_MS = 10 * 60_000

const cache = join(ROOT, '.cache/rdma-vm')
mkdirSync(cache, { recursive: true })
const job = mkdtempSync(join(cache, 'job-'))
let ended
try {
  const outdir = join(job, 'lib')
  mkdirSync(join(outdir, 'node_modules'), { recursive: true })
  const external = ['zeromq', ...addonPackages().map(({ name }) => name)]
  await bundleJavaScript({ outdir, external, first: PROGRAMS })
  copyAddons(join(outdir, 'node_modules'))
  copyZeromq(join(outdir, 'node_modules'))
  cpSync(join(ROOT, 'native/rdma/examples'), join(outdir, 'examples'), { recursive: true })
  const main = sourceArguments('packages/testing/src/rdma-vm/main.ts')
  const flags = ['--cache', cache, '--job', job, ...process.argv.slice(2)]
  ended = await run(process.execPath, [...main, ...flags], { timeoutMs: TIMEOUT_MS })
} finally {
  rmSync(job, { recursive: true, force: true })
}
exitLike(ended)
