/**
 * Runs the tests tagged rdma in guests: bundles what they run, prepares what boots, runs each job. Prints PASS, FAIL and SKIP lines, and
 * writes them as JUnit where that is asked for: `main.ts [--only NAME] [--verbose] [--junit FILE]`.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { ROOT } from '@ckpt/bundle'
import XMLBuilder from 'fast-xml-builder'
import { copyGuestPrograms } from './guest-programs.ts'
import { missingForVm } from './needs.ts'
import { prepareVm } from './prepare.ts'
import { runVm, type VmFiles, type VmOptions } from './vm.ts'

const { values } = parseArgs({
  options: { only: { type: 'string' }, verbose: { type: 'boolean' }, junit: { type: 'string' } },
})

/** A guest of a job: its script, and its wire if it has one. */
interface Guest {
  readonly name: string
  readonly script: string
  readonly cores: number
  readonly memoryMiB: number
  readonly wire?: VmOptions['wire']
}

interface Job {
  readonly name: string
  readonly timeoutMs: number
  readonly guests: readonly Guest[]
  /** True for a job that runs only if `--only` names it. */
  readonly named?: boolean
}

/** What has been tested, as the attributes and children of JUnit's `testcase`. */
const cases: object[] = []
const failed = new Set<string>()
const missing = missingForVm()
if (missing !== undefined) report('SKIP', 'rdma', missing)
else await runJobs(join(ROOT, '.cache/rdma-vm'))
if (values.junit !== undefined) {
  const builder = new XMLBuilder({ ignoreAttributes: false, attributeNamePrefix: '@' })
  writeFileSync(values.junit, builder.build({ testsuite: { '@name': 'rdma', testcase: cases } }))
}
process.exitCode = failed.size === 0 ? 0 : 1

/** Notes and prints what one test came to. */
function report(state: 'PASS' | 'FAIL' | 'SKIP', what: string, reason?: string): void {
  console.log(`${state} ${what}${reason === undefined ? '' : `: ${reason}`}`)
  const message = { '@message': reason ?? '' }
  cases.push({ '@name': what, ...(state === 'FAIL' && { failure: message }), ...(state === 'SKIP' && { skipped: message }) })
}

async function runJobs(cache: string): Promise<void> {
  const files = prepare(cache)
  if (files === undefined) return
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, 'job-'))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1))
  await copyGuestPrograms(folder)
  for (const one of jobs(folder)) {
    if (values.only === undefined ? one.named !== true : values.only === one.name) await runJob(files, folder, one)
  }
}

/** Returns the boot files; undefined, reported as a skip, if the kernel cannot be downloaded. */
function prepare(folder: string): VmFiles | undefined {
  try {
    return prepareVm(folder, (text) => console.error(`rdma: ${text}`))
  } catch (error) {
    report('SKIP', 'rdma', `no kernel for the VM: ${String(error).split('\n')[0]}`)
    return undefined
  }
}

function jobs(folder: string): readonly Job[] {
  const wires = 'wire x 1\nwire y 2'
  const pair = (role: string, number: number, other: string): Guest => ({
    name: role,
    script: [
      `machine ${number}`,
      `node lib/pair.mjs ${role} 10.2.0.${number} /job/pair`,
      `node lib/update.mjs ${role} /job/pair 10.2.0.${number}`,
    ].join('\n'),
    cores: 1,
    memoryMiB: 1536,
    wire: { local: join(folder, `${role}.sock`), remote: join(folder, `${other}.sock`), mac: `52:54:00:00:00:0${number}` },
  })
  return [
    {
      name: 'one-machine',
      timeoutMs: 400_000,
      guests: [
        {
          name: 'guest',
          script: `loopback\n${wires}\ncode=0\nfor program in bindings endpoint update; do node lib/$program.mjs || code=1; done\nexit $code`,
          cores: 2,
          memoryMiB: 2048,
        },
      ],
    },
    {
      // Not with the others: connections of UCX 1.13 over this kernel's soft-RoCE are reset now and then (docs/wires.md).
      name: 'ucx',
      named: true,
      timeoutMs: 400_000,
      guests: [{ name: 'guest', script: 'loopback\nnode lib/ucx.mjs', cores: 2, memoryMiB: 2048 }],
    },
    { name: 'pair', timeoutMs: 400_000, guests: [pair('owner', 1, 'joiner'), pair('joiner', 2, 'owner')] },
  ]
}

async function runJob(files: VmFiles, folder: string, { name, guests, timeoutMs }: Job): Promise<void> {
  const start = performance.now()
  mkdirSync(join(folder, name))
  cpSync(fileURLToPath(new URL('./guest/network.sh', import.meta.url)), join(folder, 'network.sh'))
  await Promise.all(guests.map((guest) => runGuest(files, folder, name, guest, timeoutMs)))
  console.error(`rdma: ${name} took ${((performance.now() - start) / 1000).toFixed(1)} s`)
}

async function runGuest(files: VmFiles, folder: string, job: string, guest: Guest, timeoutMs: number): Promise<void> {
  const { name, script, cores, memoryMiB, wire } = guest
  writeFileSync(join(folder, `${name}.sh`), `set -e\n. ./network.sh\n${script}\n`)
  const fail = (what: string): void => {
    failed.add(name)
    report('FAIL', `rdma ${job}: ${what}`)
  }
  const onLine = (line: string): void => {
    if (values.verbose === true) console.error(`  ${line}`)
    const [, state, what] = /^(PASS|FAIL|SKIP) (.*)$/.exec(line) ?? []
    if (line.startsWith('NOTE ')) console.error(`rdma ${job} ${name}: ${line.slice(5)}`)
    if (state === 'FAIL') fail(what!)
    else if (state === 'PASS') report('PASS', `rdma ${job}: ${what}`)
    else if (state === 'SKIP') {
      const [name, ...reason] = what!.split(': ')
      report('SKIP', `rdma ${job}: ${name}`, reason.join(': '))
    }
  }
  try {
    const options = { files, job: folder, script: name, cores, memoryMiB, timeoutMs, onLine, ...(wire && { wire }) }
    const code = await runVm(options)
    if (code !== 0 && !failed.has(name)) fail(`${name} ended with exit code ${code}`)
  } catch (error) {
    fail(String(error).replaceAll('\n', ' | '))
  }
}
