import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ParameterServer } from '@ckpt/core'
import { metricsOf } from '@ckpt/server'
import { beforeAll, describe, expect, it } from 'vitest'

const MONITORING = fileURLToPath(new URL('../../../../deploy/monitoring', import.meta.url))
const read = (name: string) => readFileSync(join(MONITORING, name), 'utf8')
const NAMES = /\bckpt_[a-z_]+/g

describe('what deploy/monitoring asks of Prometheus', () => {
  /** Metrics that a rank exports, with those of a histogram. */
  let exported: Set<string>
  beforeAll(async () => {
    await using server = await ParameterServer.create({ rank: 0, worldSize: 1, rendezvous: 'tcp://127.0.0.1:0' })
    const types = (await metricsOf(server).text()).matchAll(/^# TYPE (\S+) (\S+)$/gm)
    exported = new Set(
      [...types].flatMap(([, name, type]) =>
        type === 'histogram' ? ['_bucket', '_sum', '_count'].map((end) => name! + end) : name!,
      ),
    )
  })

  it.each(['alerts.yml', 'grafana.json'])('%s names only metrics that a rank exports', (file) => {
    const expressions = [...read(file).matchAll(/"?expr"?: (?:>-\n)?([^]*?)(?:\n\s+(?:for|labels):|",?\n)/g)].map(
      ([, text]) => text!,
    )
    const used = new Set(expressions.flatMap((text) => text.match(NAMES) ?? []))
    expect(used.size).toBeGreaterThan(3)
    expect([...used].filter((name) => !exported.has(name))).toEqual([])
  })

  it('promtool finds the rules valid, and alerts when they should be', ({ skip }) => {
    const promtool = (...args: string[]) => spawnSync('promtool', args, { cwd: MONITORING, encoding: 'utf8' })
    if (promtool('--version').status !== 0) skip('promtool is missing; apt-get install prometheus')
    for (const args of [
      ['check', 'rules', 'alerts.yml'],
      ['test', 'rules', 'alerts_test.yml'],
    ]) {
      const { status, stdout, stderr } = promtool(...args)
      expect({ status, output: status === 0 ? '' : stdout + stderr }).toEqual({ status: 0, output: '' })
    }
    const alerts = read('alerts.yml').match(/(?<=alert: ).*/g)!
    for (const name of alerts) expect(read('alerts_test.yml')).toContain(`alertname: ${name}`)
  })

  it('the dashboard has panels that do not overlap, each with a query and a unit', () => {
    const { panels } = JSON.parse(read('grafana.json')) as {
      panels: { id: number; title: string; gridPos: Record<'x' | 'y' | 'w' | 'h', number>; targets: { expr: string }[] }[]
    }
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length)
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, at) => `${x + (at % w)},${y + Math.floor(at / w)}`),
    )
    expect(new Set(cells).size).toBe(cells.length)
    expect(panels.filter(({ targets }) => targets.length === 0 || targets.some(({ expr }) => expr === ''))).toEqual([])
  })
})
