import { cpSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { addonPackages, bundleJavaScript, copyAddons, copyZeromq, ROOT } from '@ckpt/bundle'

const PROGRAMS = ['bindings', 'endpoint', 'pair', 'ucx', 'update']

/** Puts what guests run, and what it needs, into `job/lib`. */
export async function copyGuestPrograms(job: string): Promise<void> {
  const outdir = join(job, 'lib')
  const modules = join(outdir, 'node_modules')
  mkdirSync(modules, { recursive: true })
  const external = ['zeromq', ...addonPackages().map(({ name }) => name)]
  const first = new Map(PROGRAMS.map((name) => [name, `packages/testing/src/rdma-vm/guest/${name}.ts`]))
  await bundleJavaScript({ outdir, external, first })
  copyAddons(modules)
  copyZeromq(modules)
  cpSync(join(ROOT, 'native/rdma/examples'), join(outdir, 'examples'), { recursive: true })
}
