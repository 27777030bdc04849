import { direct } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { expect } from 'vitest'
import type { LocalRanks } from './ranks.ts'
import type { Completion, VllmServer } from './server.ts'

/** Buckets of the recorded update that split layers. */
const SMALL = { bucketBytes: 16 * 1024, ringBytes: 256 * 1024 }

/**
 * Makes an update of a server that is recorded, then direct ones between checkpoints `first` and `second`; after each the server answers as `expected`
 * has it for them. Of the bytes that its workers need at least `share` is written straight into parameters.
 */
export async function expectDirect(given: {
  readonly server: VllmServer
  readonly ranks: LocalRanks
  readonly expected: readonly (readonly Completion[])[]
  readonly share: number
}): Promise<void> {
  const { server, ranks, expected, share } = given
  expect(expected[0]).not.toEqual(expected[1])
  const engine = vllm({ url: server.url, parallelSize: ranks.servers.length })
  const [recorded] = await ranks.update('first', { engine, strategy: direct(), ...SMALL })
  expect(recorded).toMatchObject({ strategy: 'broadcast', direct: { recorded: expect.stringMatching(/^recorded/) as string } })
  expect(await server.complete()).toEqual(expected[0])
  for (const [name, answers, verify] of [
    ['second', expected[1], true],
    ['first', expected[0], false],
    ['second', expected[1], false],
  ] as const) {
    const [report] = await ranks.update(name, { engine, strategy: direct({ required: true }), ...SMALL, verify })
    expect(report).toMatchObject({ strategy: 'direct', version: name, verified: verify })
    const { bytes, opaque } = report!.direct!
    const written = bytes!.nodeNeeded / (bytes!.nodeNeeded + bytes!.opaque)
    console.log(
      written,
      JSON.stringify({
        bytes,
        opaque: opaque.length,
        reasons: [...new Set(opaque.map((o) => o.reason))],
        steps: report!.steps,
      }),
    )
    expect(written).toBeGreaterThanOrEqual(share)
    if (share === 1) expect(report).toMatchObject({ ringBytes: 0, buckets: 0 })
    expect(await server.complete()).toEqual(answers)
  }
}
