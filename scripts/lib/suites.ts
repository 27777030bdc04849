import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fetchNode } from '@ckpt/bundle'
import { run } from './process.mjs'
import { PYTHON_PACKAGES, pythonEnv, pythonLacks, pythonProgram } from './python.ts'
import { addResults, noResults, readJUnit, type Results } from './results.ts'
import { ROOT, sourceArguments } from './root.mjs'

const VITEST_TIMEOUT_MS = 40 * 60_000
const SUITE_TIMEOUT_MS = 30 * 60_000
const VITEST = join(ROOT, 'node_modules/vitest/vitest.mjs')
/** Other Nodes that tests run on; CI's own is the oldest. */
const NODES = ['22', '24', '26']
/** What another Node can break: addons, sockets, workers, file handles, loading of modules. The rest does the same on all of them. */
const ON_OTHER_NODES = [
  ...['packages/safetensors/src/files', 'packages/memory/src/checkpoint-store', 'packages/memory/src/leaks'],
  ...['packages/memory/src/lifetime', 'packages/memory/src/trainer', 'packages/transport/src/host'],
  ...['packages/rendezvous/src/cluster', 'packages/rendezvous/src/descriptors', 'packages/rendezvous/src/torchrun'],
  ...['packages/core/src/observe', 'packages/core/src/parameter-server', 'apps/harness/src/update.test.ts'],
]
/** Tests on hosts out of namespaces; all of them are among the unit tests, too. */
const ON_HOSTS = [
  ...['packages/testing/src/hosts', 'apps/harness/src/hosts', 'apps/harness/src/namespaces', 'apps/harness/src/p2p-hosts'],
  ...['apps/harness/src/direct-hosts', 'apps/harness/src/join-hosts', 'apps/harness/src/faults/host-campaign'],
]
const SANITIZERS = ['address', 'thread']

/** What a suite is told. */
export interface SuiteOptions {
  /** Folder for JUnit files. */
  readonly results: string
  /** Filters and flags for vitest. */
  readonly filters: readonly string[]
}

/** All vitest tests, live on the terminal. */
export function unitTests({ results, filters }: SuiteOptions): Promise<Results> {
  return vitest(join(results, 'unit.xml'), 'vitest', filters)
}

/** vitest tests of real engines; those that need vLLM say why where it cannot be had. */
export async function engineTests({ results, filters }: SuiteOptions): Promise<Results> {
  const { code, output } = await run(process.execPath, [...sourceArguments('scripts/setup-python.ts'), '--vllm'], { tee: true })
  const why = code === 0 ? undefined : (/^SKIP vLLM: (.*)$/m.exec(output)?.[1] ?? 'setting it up failed')
  const env = { CKPT_ENGINE_TESTS: '1', ...(why !== undefined && { CKPT_VLLM_MISSING: why }) }
  return vitest(join(results, 'engine.xml'), 'engine', ['--project', 'engine', ...filters], { env })
}

/** Tests with training frameworks (verl with Ray, TRL and others), where their environment can be made. */
export async function trainerTests({ results, filters }: SuiteOptions): Promise<Results> {
  const args = [...sourceArguments('scripts/setup-python.ts'), '--trainers']
  const { code, output } = await run(process.execPath, args, { tee: true })
  if (code !== 0) {
    const total = noResults()
    const reason = /^SKIP trainers: (.*)$/m.exec(output)?.[1] ?? 'setting them up failed'
    total.skipped.push({ name: 'tests with training frameworks', reason })
    return total
  }
  const file = join(results, 'trainers.xml')
  const cwd = join(ROOT, 'packages/python/trainers')
  const python = join(ROOT, '.cache/trainers/venv/bin/python')
  const ended = await run(python, ['-m', 'pytest', '-q', `--junitxml=${file}`, ...filters], {
    cwd,
    timeoutMs: SUITE_TIMEOUT_MS,
  })
  return readJUnit([file], 'trainers', ended)
}

/** What a Node can break, on other Nodes. */
export async function nodeTests({ results, filters }: SuiteOptions): Promise<Results> {
  const total = noResults()
  for (const version of NODES) {
    const node = fetchNode(version).binary
    const path = join(results, `node-${version}.xml`)
    const env = { PATH: `${join(node, '..')}:${process.env['PATH']}` }
    const chosen = filters.length > 0 ? filters : ON_OTHER_NODES
    addResults(total, await vitest(path, `Node ${version}`, chosen, { env, node }))
  }
  return total
}

/** Tests on two and three hosts out of namespaces, where they are allowed; elsewhere each says why not. */
export function hostTests({ results, filters }: SuiteOptions): Promise<Results> {
  return vitest(join(results, 'hosts.xml'), 'hosts', filters.length > 0 ? filters : ON_HOSTS)
}

interface VitestOptions {
  readonly env?: NodeJS.ProcessEnv
  readonly node?: string
}

async function vitest(file: string, what: string, args: readonly string[], options: VitestOptions = {}): Promise<Results> {
  const { env, node = process.execPath } = options
  const ended = await run(node, [VITEST, 'run', ...args], {
    env: { ...process.env, ...env, CKPT_JUNIT: file },
    timeoutMs: VITEST_TIMEOUT_MS,
  })
  return readJUnit([file], what, ended)
}

/** The native engines' tests under every sanitizer, by CTest: `native/CMakePresets.json`. */
export async function nativeTests({ results }: SuiteOptions): Promise<Results> {
  const total = noResults()
  if (!hasHeader('doctest/doctest.h')) {
    total.skipped.push({ name: 'native tests', reason: 'doctest/doctest.h is missing; apt-get install doctest-dev' })
    return total
  }
  if (!hasHeader('infiniband/verbs.h')) {
    total.skipped.push({ name: 'native/rdma', reason: 'infiniband/verbs.h is missing; apt-get install libibverbs-dev' })
  }
  if (!hasHeader('ucp/api/ucp.h')) {
    total.skipped.push({ name: 'native/ucx', reason: 'ucp/api/ucp.h is missing; apt-get install libucx-dev' })
  }
  for (const name of SANITIZERS) {
    const file = join(results, `${name}.xml`)
    let ended = { code: 1, signal: null as NodeJS.Signals | null }
    for (const [program, ...args] of [
      ['cmake', '--preset', name],
      ['cmake', '--build', '--preset', name],
      ['ctest', '--preset', name, '--output-junit', file],
    ]) {
      ended = await run(program!, args, { cwd: join(ROOT, 'native'), timeoutMs: SUITE_TIMEOUT_MS })
      if (ended.code !== 0) break
    }
    addResults(total, readJUnit([file], `sanitizer ${name}`, ended))
  }
  return total
}

function hasHeader(header: string): boolean {
  const args = ['-x', 'c++', '-fsyntax-only', '-']
  return spawnSync(process.env['CXX'] ?? 'c++', args, { input: `#include <${header}>\n` }).status === 0
}

/** Tests tagged rdma, in a VM with soft-RoCE. */
export async function rdmaTests({ results }: SuiteOptions): Promise<Results> {
  const file = join(results, 'rdma.xml')
  const main = sourceArguments('packages/testing/src/rdma-vm/main.ts')
  const ended = await run(process.execPath, [...main, '--junit', file], { timeoutMs: SUITE_TIMEOUT_MS })
  return readJUnit([file], 'rdma', ended)
}

/** The Python packages' tests, where there is a Python environment. */
export async function pythonTests({ results }: SuiteOptions): Promise<Results> {
  const total = noResults()
  const reason = pythonLacks(['torch', 'zmq', 'msgspec', 'safetensors', 'numpy', 'pytest', 'hypothesis', 'hatchling'])
  if (reason !== undefined) {
    total.skipped.push({ name: 'Python tests', reason })
    return total
  }
  for (const [index, cwd] of PYTHON_PACKAGES.entries()) {
    const file = join(results, `python-${index}.xml`)
    const ended = await run(pythonProgram, ['-m', 'pytest', '-q', `--junitxml=${file}`], {
      cwd,
      env: pythonEnv,
      timeoutMs: SUITE_TIMEOUT_MS,
    })
    addResults(total, readJUnit([file], `pytest in ${cwd}`, ended))
  }
  return total
}
