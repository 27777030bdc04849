import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { unknownServeOptions } from './serve-options.fixture.ts'

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url))
const PYTHON = join(ROOT, '.cache/deploy/venv/bin/python')
const RENDER = join(ROOT, 'scripts/python/render_chart.py')
const WORKLOADS = ['statefulset', 'leaderworkerset', 'jobset'] as const

interface Rendered {
  readonly manifests: Readonly<Record<(typeof WORKLOADS)[number], string>>
  readonly variants: readonly string[]
  readonly problems: readonly string[]
}

function render(...values: readonly object[]) {
  const run = spawnSync(PYTHON, [RENDER, ...values.map((one) => JSON.stringify(one))], { encoding: 'utf8', timeout: 100_000 })
  return { ...run, rendered: () => JSON.parse(run.stdout) as Rendered }
}

describe("the Helm chart, with Helm's own engine and Kubernetes' schemas", () => {
  let rendered: Rendered
  beforeEach(({ skip }) => {
    if (!existsSync(PYTHON)) skip('no chart tools: npm run setup:deploy')
  })
  beforeAll(() => {
    if (!existsSync(PYTHON)) return
    const gpus = { nodeSelector: { gpu: 'h200' }, tolerations: [{ key: 'gpu', operator: 'Exists', effect: 'NoSchedule' }] }
    const {
      status,
      stderr,
      rendered: read,
    } = render(
      {
        tlsSecretName: 'api-tls',
        ckpt: { extraArgs: ['--keep-alive'], env: [{ name: 'CKPT_P2P_ADDRESS', value: '10.0.0.1' }] },
      },
      { workload: 'jobset', nodes: 4, engine: { ranks: 4 }, ...gpus },
    )
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    rendered = read()
  })

  it('renders every workload, and what Kubernetes defines of each is valid', () => {
    expect(rendered.problems).toEqual([])
    const kinds = Object.values(rendered.manifests).map((text) => text.match(/^kind: .*$/gm))
    expect(kinds).toEqual([['kind: Service', 'kind: StatefulSet'], ['kind: LeaderWorkerSet'], ['kind: JobSet']])
    const [tls, job] = rendered.variants
    expect(tls).toContain('--tls-cert=/run/secrets/ckpt-tls/tls.crt')
    expect(tls).toContain('scheme: HTTPS')
    expect(tls).toContain('- --keep-alive')
    expect(job).toContain('--parallel-size=16')
    expect(job).toMatch(/completions: 4\n[^]*name: WORLD_SIZE\n\s*value: "4"/)
    expect(job).toContain('gpu: h200')
  })

  it('leaves nothing to root, and gives both containers one /dev/shm, one runtime directory and one user', () => {
    for (const workload of WORKLOADS) {
      const text = rendered.manifests[workload]
      expect(text).toContain('runAsNonRoot: true')
      expect(text.match(/readOnlyRootFilesystem: true/g)).toHaveLength(2)
      expect(text.match(/drop: *(\[ALL\]|\n\s+- ALL)/g)).toHaveLength(3)
      for (const path of ['/dev/shm', '/run/ckpt', '/models'])
        expect(text.match(new RegExp(`mountPath: ${path}\n`, 'g'))).toHaveLength(2)
      expect(text).toMatch(/enableServiceLinks: false/)
      expect(text).toMatch(/medium: Memory\n\s+sizeLimit: 128Gi/)
    }
  })

  it('sets what `ckpt serve` reads of each launcher', () => {
    const { statefulset, leaderworkerset, jobset } = rendered.manifests
    expect(statefulset).toContain('--engine=vllm=http://127.0.0.1:8000')
    expect(leaderworkerset).toContain('--engine=vllm=http://$(LWS_LEADER_ADDRESS):8000')
    expect(leaderworkerset).toContain('name: MASTER_PORT')
    // The name of the first pod: JobSet, job, its index, the pod's index; in the JobSet's subdomain.
    expect(jobset).toMatch(/name: MASTER_ADDR\n\s+value: ckpt-engine-0-0\.ckpt\n/)
    expect(jobset).toContain('completionMode: Indexed')
    for (const text of Object.values(rendered.manifests))
      expect(unknownServeOptions(text.slice(text.indexOf('- serve\n')))).toEqual([])
  })

  it('gives the manifests in the repository', () => {
    for (const workload of WORKLOADS) {
      const file = join(ROOT, 'deploy/manifests', `${workload}.yaml`)
      expect(readFileSync(file, 'utf8'), `${file}: CONTRIBUTING.md says how it is rendered`).toBe(rendered.manifests[workload])
    }
  })

  it.each([
    ['a workload that it does not know', { workload: 'deployment' }, 'workload'],
    ['a misspelt value', { engine: { rank: 8 } }, 'rank'],
    ['root', { user: 0 }, 'user'],
    ['a size without a unit', { shm: '64' }, 'shm'],
  ])('refuses %s', (_, values, name) => {
    const { status, stderr } = render(values)
    expect(status).toBe(1)
    expect(stderr).toContain(name)
  })
})
