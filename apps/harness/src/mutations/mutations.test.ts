import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { describe, expect, it } from 'vitest'
import { generateCheckpoint, hostsProblem, mutationsOf, Random, WAYS } from '@ckpt/testing'
import { MutationCluster, REMOTE } from './mutation-cluster.ts'
import { runMutations } from './mutation-trials.ts'

describe('a single wrong byte or copy is found before the commit', () => {
  it.for(WAYS)('in %s updates', { timeout: 600_000 }, async (way, { skip }) => {
    const problem = way === 'remote' ? hostsProblem(REMOTE) : undefined
    if (problem !== undefined) skip(problem)
    const host = createHost()
    const [shape, bytes] = [model('qwen3-30b-a3b'), 2 * 2 ** 20]
    using first = await generateCheckpoint(host, shape, bytes, 1n, `mutations-${way}-a`)
    using second = await generateCheckpoint(host, shape, bytes, 1_000_003n, `mutations-${way}-b`)
    await using cluster = await MutationCluster.start({ way, checkpoints: [first, second], ranks: 2 })
    const trials = await runMutations(cluster, mutationsOf(way).length, new Random(7))
    expect(trials.filter(({ outcome }) => outcome === 'missed' || outcome === 'failed')).toEqual([])
    for (const { afterwards, ...trial } of trials) expect({ ...trial, afterwards }).toEqual({ ...trial, afterwards: undefined })
  })
})
