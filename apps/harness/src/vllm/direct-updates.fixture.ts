import { auto, broadcast, direct } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { expect } from 'vitest'
import type { Completion, LocalRanks, VllmServer } from '@ckpt/testing'

/** Buckets of the recorded update that split layers. */
const SMALL = { bucketBytes: 16 * 1024, ringBytes: 256 * 1024 }

export interface Given {
  readonly server: VllmServer
  readonly ranks: LocalRanks
  /** Answers for checkpoints `first` and `second`. */
  readonly expected: readonly (readonly Completion[])[]
  /** Bounds of the fraction of the workers' bytes that no ring carries. */
  readonly share: readonly [least: number, most: number]
}

/**
 * Makes direct updates of a server between checkpoints `first` and `second`; after each the server must answer as in `expected`.
 * The first one is direct if vLLM's loader can be rehearsed, which it can if all parameters have the checkpoint's form, and
 * recorded if not.
 */
export async function expectDirect({ server, ranks, expected, share: [least, most] }: Given): Promise<void> {
  expect(expected[0]).not.toEqual(expected[1])
  const engine = vllm({ url: server.url, parallelSize: ranks.servers.length })
  const rehearsed = least === 1
  // Served weights stay as they are.
  const before = await server.complete()
  const [prepared] = await ranks.prepare('first', engine)
  const reason = expect.stringMatching(/no recording yet \(.*into another form/) as string
  expect(prepared).toMatchObject(rehearsed ? { prepared: true, kept: false } : { prepared: false, reason })
  expect(await server.complete()).toEqual(before)
  if (rehearsed)
    expect(await ranks.prepare('first', engine)).toMatchObject([
      { prepared: true, kept: true },
      ...ranks.servers.slice(1).map(() => ({ kept: true })),
    ])
  const [begun] = await ranks.update('first', { engine, strategy: auto(), ...SMALL })
  if (rehearsed) {
    expect(begun).toMatchObject({ strategy: 'direct', verified: 'bytes' })
    expect(begun!.direct!.check!.layer).toBe('one of each kind')
    expect(begun!.direct!.check!.tensors).toBeGreaterThan(8)
  } else {
    const fallback = expect.stringMatching(/^rank 0: its engine worker has no recording yet \(.*into another form/) as string
    const recorded = expect.stringMatching(/^recorded/) as string
    expect(begun).toMatchObject({ strategy: 'broadcast', direct: { fallback, recorded } })
  }
  expect(await server.complete()).toEqual(expected[0])
  // The second after a recording is compared with vLLM's own loader, on one layer.
  for (const [name, answers, strategy, verify, checked] of [
    ['second', expected[1], direct({ required: true }), true, false],
    ['first', expected[0], auto(), false, !rehearsed],
    ['second', expected[1], auto(), false, false],
  ] as const) {
    const [report] = await ranks.update(name, { engine, strategy, ...SMALL, verify })
    // Parameters that vLLM keeps in a different form cannot be read back.
    const level = !verify ? 'none' : least === 1 ? 'bytes' : 'sources'
    expect(report).toMatchObject({ strategy: 'direct', version: name, verified: level })
    const { bytes } = report!.direct!
    const written = bytes!.nodeNeeded / (bytes!.nodeNeeded + bytes!.opaque)
    expect(written).toBeGreaterThanOrEqual(least)
    expect(written).toBeLessThanOrEqual(most)
    if (checked) expect(report!.direct!.check!.tensors).toBeGreaterThan(0)
    else expect(report!.direct!.check).toBeUndefined()
    if (least === 1 && !checked) expect(report).toMatchObject({ ringBytes: 0, buckets: 0 })
    expect(await server.complete()).toEqual(answers)
  }
  // An update of a different strategy moves nothing: the next one is direct again.
  await ranks.update('first', { engine, strategy: broadcast(), ...SMALL })
  expect(await server.complete()).toEqual(expected[0])
  const [again] = await ranks.update('second', { engine, strategy: auto() })
  expect(again).toMatchObject({ strategy: 'direct' })
  expect(await server.complete()).toEqual(expected[1])
}

/** Workers that do not let others write into their parameters replay what they recorded, and answer the same. */
export async function expectReplay({ server, ranks, expected }: Omit<Given, 'share'>): Promise<void> {
  const engine = vllm({ url: server.url, parallelSize: ranks.servers.length })
  await server.post('/collective_rpc', { method: 'keep_parameters' })
  await ranks.update('first', { engine, strategy: auto(), ...SMALL })
  for (const [name, answers] of [
    ['second', expected[1]],
    ['first', expected[0]],
  ] as const) {
    const [report] = await ranks.update(name, { engine, strategy: auto(), ...SMALL })
    expect(report).toMatchObject({
      strategy: 'broadcast',
      direct: { fallback: "rank 0: CKPT_ENGINE_SHARE is 0 in the engine's environment" },
    })
    expect(report!.direct!.replayed).toBeGreaterThan(10)
    expect(await server.complete()).toEqual(answers)
  }
  await expect(ranks.update('first', { engine, strategy: direct({ required: true }) })).rejects.toThrow(/CKPT_ENGINE_SHARE/)
}
