import { execFileSync } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { generateCheckpoint } from '@ckpt/testing'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { imageSettings, noContainer, runContained } from './container.fixture.ts'

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url))
const MAKE = [join(ROOT, 'scripts/run.mjs'), 'bundle']

const image = imageSettings(join(ROOT, 'deploy/Containerfile'))
const why = noContainer()

/** Two engine workers and an update of them, as processes of one pod would: all are below tini. */
const UPDATE = `
for rank in 0 1; do
  ckpt-node /opt/ckpt/lib/testing-engine-main.mjs --control /run/ckpt/engine-$rank.sock --checkpoint /models --tp-rank $rank --tp-size 2 &
done
exec ckpt update --engine 'control=/run/ckpt/engine-{rank}.sock' --nproc 2 --timeout 60 --json /models
`

describe('the steps of deploy/Containerfile, as its user, with a read-only root', { timeout: 240_000 }, () => {
  let directory: string | undefined
  let opt: string
  let models: string
  beforeAll(async () => {
    if (why !== undefined) return
    const made = mkdtempSync(join(tmpdir(), 'ckpt-container-'))
    directory = made
    chmodSync(made, 0o755)
    opt = join(made, 'opt')
    const bundle = image.builds.find((line) => line.startsWith('npm run bundle -- '))!
    const args = bundle.split(' ').slice(4)
    expect(args.slice(-2)).toEqual(['--out', '/opt/ckpt'])
    execFileSync(process.execPath, [...MAKE, ...args.slice(0, -1), opt], { stdio: ['ignore', 'ignore', 'inherit'] })
    models = join(made, 'models')
    using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 96 * 2 ** 20, 5n, 'container')
    cpSync(checkpoint.directory, models, { recursive: true })
    // A claim that everybody may read.
    execFileSync('chmod', ['-R', 'a+rX', models])
  }, 240_000)
  afterAll(() => directory !== undefined && rmSync(directory, { recursive: true, force: true }))
  beforeEach(({ skip }) => {
    if (why !== undefined) skip(why)
  })

  let count = 0
  const run = (shm: string, program: readonly string[]) => {
    const root = join(directory!, `root-${count++}`)
    mkdirSync(root)
    const { status, stdout, stderr } = runContained(image, { root, opt, models, shm }, program)
    return { status, stdout, stderr }
  }

  it('cannot write to its root, and has no rights', () => {
    const { stdout } = run('64m', [
      '/usr/bin/tini',
      '--',
      'sh',
      '-c',
      'id -u; touch /x 2>&1; touch /opt/ckpt/x 2>&1; grep CapEff /proc/self/status; cat /proc/1/comm',
    ])
    expect(stdout.split('\n')).toEqual([
      '10001',
      "touch: cannot touch '/x': Read-only file system",
      "touch: cannot touch '/opt/ckpt/x': Read-only file system",
      'CapEff:\t0000000000000000',
      'tini',
      '',
    ])
  })

  it('passes ckpt doctor with /dev/shm of 64 MiB, which names the remedy', () => {
    const { status, stdout, stderr } = run('64m', [...image.entrypoint, ...image.command, '--json'])
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    const { ready, lacking, checks } = JSON.parse(stdout) as {
      readonly ready: boolean
      readonly lacking: readonly string[]
      readonly checks: readonly { id: string; status: string; remedy?: string; facts?: unknown }[]
    }
    expect({ ready, lacking }).toEqual({ ready: true, lacking: [] })
    const of = (id: string) => checks.find((check) => check.id === id)
    expect(of('shm')).toMatchObject({
      status: 'warn',
      remedy: expect.stringMatching(/--shm-size.*emptyDir with medium Memory/) as string,
      facts: { totalBytes: 64 * 2 ** 20 },
    })
    expect(of('bundle')).toMatchObject({ status: 'ok' })
    expect(of('addon.host')).toMatchObject({ status: 'ok' })
  })

  it('updates engines with a larger /dev/shm', () => {
    const { status, stdout, stderr } = run('1g', ['/usr/bin/tini', '-g', '--', 'sh', '-c', UPDATE])
    expect({ status, stderr: status === 0 ? '' : stderr }).toEqual({ status: 0, stderr: '' })
    const reports = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { rank: number; verified: string })
    expect(reports.map(({ rank, verified }) => [rank, verified]).sort()).toEqual([
      [0, 'bytes'],
      [1, 'bytes'],
    ])
  })
})
