import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort, nodeArguments } from '@ckpt/testing'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { CKPT, unknownServeOptions } from './serve-options.fixture.ts'

const DEPLOY = fileURLToPath(new URL('../../../../deploy', import.meta.url))
const UNIT = readFileSync(join(DEPLOY, 'systemd/ckpt.service'), 'utf8')

let directory: string
/** The `ckpt` command of this tree. */
let command: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-units-'))
  command = join(directory, 'ckpt')
  const words = [process.execPath, ...nodeArguments(CKPT)].map((word) => `'${word}'`)
  writeFileSync(command, `#!/bin/sh\nexec ${words.join(' ')} "$@"\n`, { mode: 0o755 })
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

describe('the systemd unit', () => {
  it('has only options that ckpt serve has, and leaves the engine what they share', () => {
    expect(unknownServeOptions(UNIT.slice(UNIT.indexOf('ExecStart=')))).toEqual([])
    expect(UNIT).not.toMatch(/^Private(Tmp|IPC|Devices)=/m)
  })

  it('is valid, and systemd counts it as protected', ({ skip }) => {
    if (spawnSync('systemd-analyze', ['--version']).status !== 0) skip('systemd-analyze is missing; apt-get install systemd')
    const unit = join(directory, 'ckpt.service')
    writeFileSync(unit, UNIT.replaceAll('/opt/ckpt/bin/ckpt', command))
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', unit], { encoding: 'utf8' })
    expect({ status, stderr: stderr.split('\n').filter((line) => line.includes('ckpt.service')) }).toEqual({
      status: 0,
      stderr: [],
    })
    const security = spawnSync('systemd-analyze', ['security', '--offline=true', '--threshold=40', unit], { encoding: 'utf8' })
    expect({ status: security.status, output: security.status === 0 ? '' : security.stdout }).toEqual({ status: 0, output: '' })
  })
})

/** srun as on one node: the step's variables, and its command. */
const SRUN = `#!/bin/sh
while [ "\${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=1 SLURM_STEP_NODELIST=localhost SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_TASKS_PER_NODE=1
exec "$@"
`

describe('the Slurm script', () => {
  it(
    'starts a rank for each engine worker of the node, which its token opens, and ends them on SIGTERM',
    { timeout: 120_000 },
    async () => {
      const commands = join(directory, 'commands')
      mkdirSync(commands)
      writeFileSync(join(commands, 'srun'), SRUN)
      chmodSync(join(commands, 'srun'), 0o755)
      const port = await freePort()
      const state = join(directory, 'state')
      const slurm = { SLURM_JOB_ID: String(process.pid), SLURM_SUBMIT_DIR: directory, SLURM_JOB_NUM_NODES: '1' }
      const child = spawn('bash', [join(DEPLOY, 'slurm/serve.sbatch')], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: {
          ...{ PATH: `${commands}:${process.env['PATH']}`, HOME: directory, ...slurm },
          ...{ CKPT_BIN: command, CKPT_RANKS: '2', CKPT_PORT: String(port), CKPT_STATE: state },
        },
      })
      const ended = once(child, 'exit')
      try {
        let printed = ''
        child.stdout.setEncoding('utf8').on('data', (text: string) => (printed += text))
        await expect.poll(() => printed.match(/"listening"/g)?.length, { timeout: 60_000 }).toBe(2)
        const token = readFileSync(join(state, 'http-token'), 'utf8')
        for (const name of ['token', 'http-token']) expect(statSync(join(state, name)).mode & 0o777).toBe(0o600)
        for (const rank of [0, 1]) {
          const url = `http://127.0.0.1:${port + rank}/v1/readyz`
          expect((await fetch(url)).status).toBe(401)
          const ready = await fetch(url, { headers: { authorization: `Bearer ${token}` } })
          expect(await ready.json()).toMatchObject({ rank, worldSize: 2, state: 'ready' })
        }
      } finally {
        child.kill('SIGTERM')
      }
      expect(await ended).toEqual([0, null])
    },
  )
})
