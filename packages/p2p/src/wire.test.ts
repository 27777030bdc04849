import { CkptError, type HostMemory, type OneSided, type RankAccess } from '@ckpt/contract'
import { createHost, createTcpEndpoint, createUcxEndpoint, endsProcesses, probeUcx } from '@ckpt/transport'
import { afterEach, describe, expect, it } from 'vitest'
import { reachRank } from './reach.ts'
import { serve } from './serving/endpoints.ts'
import { wireUsesOf } from './serving/wire.ts'
import { fastestOf } from './wire-choice.ts'

const secret = 'a secret for tests, long enough'
const host = createHost()
const memories: HostMemory[] = []
const endpoints: OneSided[] = []
const { problem, version } = await probeUcx()
const missing = version !== undefined && endsProcesses(version) ? `UCX ${version} can end the process` : problem
const signal = new AbortController().signal
const note = (problem: CkptError): never => {
  throw problem
}

afterEach(async () => {
  await Promise.all(endpoints.splice(0).map((endpoint) => endpoint.close()))
  for (const memory of memories.splice(0)) memory.close()
})

function kept<One extends OneSided>(endpoint: One): One {
  endpoints.push(endpoint)
  return endpoint
}

const tcp = () => kept(createTcpEndpoint({ listen: ['127.0.0.1:0'], secret }))
const ucx = async () => kept(await createUcxEndpoint({ listen: '127.0.0.1:0', secret, transports: 'tcp' }))

/** Access to a rank 0 that serves the same bytes with each endpoint. */
async function accessTo(serving: readonly OneSided[]): Promise<RankAccess[]> {
  const source = await host.allocate({ bytes: 3 * 2 ** 20, lock: false })
  memories.push(source)
  const points = []
  for (const endpoint of serving) {
    const { descriptor } = await endpoint.register(source)
    points.push({ endpoint: endpoint.descriptor, regions: [descriptor], secret })
  }
  return [{ rank: 0, points }]
}

describe('CKPT_WIRE', () => {
  it.each([
    [{}, { rdma: 'auto', ucx: 'auto', tcp: true }],
    [{ CKPT_WIRE: '' }, { rdma: 'auto', ucx: 'auto', tcp: true }],
    [{ CKPT_WIRE: 'ucx' }, { rdma: 'off', ucx: 'require', tcp: false }],
    [{ CKPT_WIRE: 'verbs' }, { rdma: 'require', ucx: 'off', tcp: false }],
    [
      { CKPT_WIRE: 'verbs', CKPT_P2P_RDMA: 'require' },
      { rdma: 'require', ucx: 'off', tcp: false },
    ],
    [{ CKPT_WIRE: 'tcp' }, { rdma: 'off', ucx: 'off', tcp: true }],
    // As before there was another wire.
    [{ CKPT_P2P_RDMA: 'require' }, { rdma: 'require', ucx: 'off', tcp: false }],
    [{ CKPT_P2P_RDMA: 'off' }, { rdma: 'off', ucx: 'off', tcp: true }],
  ])('%j', (environment, uses) => {
    expect(wireUsesOf({}, environment)).toEqual(uses)
  })

  it.each([
    { CKPT_WIRE: 'infiniband' },
    { CKPT_WIRE: 'tcp', CKPT_P2P_RDMA: 'require' },
    { CKPT_WIRE: 'verbs', CKPT_P2P_RDMA: 'off' },
  ])('%j is refused', (environment) => {
    expect(() => wireUsesOf({}, environment)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', fields: { field: 'CKPT_WIRE' } }) as Error,
    )
  })

  it('uses UCX only on a network that is said to be trusted', async () => {
    const options = { listen: ['127.0.0.1'], secret }
    await expect(serve({ ...options, wire: 'ucx' }, {}, undefined, note)).rejects.toThrow(/CKPT_TRUSTED_NETWORK=1/)
    const [only, ...more] = await serve(options, { CKPT_P2P_RDMA: 'auto' }, undefined, note)
    kept(only!.endpoint)
    expect([only!.endpoint.kind, more]).toEqual(['tcp', []])
  })
})

describe('reaching a rank', () => {
  it.skipIf(missing !== undefined)('measures the wires that both have, once, and says what it found', async () => {
    const access = await accessTo([await ucx(), tcp()])
    const options = { checkpoint: 'a', access, endpoints: [await ucx(), tcp()], host }
    const first = await reachRank(options, 0, { timeoutMs: 20_000, signal })
    expect(first.measured!.map(({ kind }) => kind)).toEqual(['ucx', 'tcp'])
    const [overUcx, overTcp] = first.measured!.map(({ bytesPerSecond }) => bytesPerSecond) as [number, number]
    expect(Math.min(overUcx, overTcp)).toBeGreaterThan(0)
    expect(first.point.endpoint.kind).toBe(overTcp > 1.1 * overUcx ? 'tcp' : 'ucx')
    expect(first.peer.alive).toBe(true)
    const again = await reachRank(options, 0, { timeoutMs: 20_000, signal })
    expect([again.point.endpoint.kind, again.measured]).toEqual([first.point.endpoint.kind, first.measured])
    await Promise.all([first.peer.close(), again.peer.close()])
  })

  it.skipIf(missing !== undefined)('does without a wire that has failed, whatever was fastest before', async () => {
    const serving = [await ucx(), tcp()]
    const access = await accessTo(serving)
    const options = { checkpoint: 'a', access, endpoints: [await ucx(), tcp()], host }
    const first = await reachRank(options, 0, { timeoutMs: 20_000, signal })
    await first.peer.close()
    const fastest = first.point.endpoint.kind
    await serving.find(({ kind }) => kind === fastest)!.close()
    const again = await reachRank(options, 0, { timeoutMs: 20_000, signal })
    expect(again.point.endpoint.kind).toBe(fastest === 'tcp' ? 'ucx' : 'tcp')
    await again.peer.close()
  })

  it('does not measure a single wire', async () => {
    const access = await accessTo([tcp()])
    const reached = await reachRank({ checkpoint: 'a', access, endpoints: [tcp()], host }, 0, { timeoutMs: 20_000, signal })
    expect([reached.point.endpoint.kind, reached.measured]).toEqual(['tcp', undefined])
    await reached.peer.close()
  })

  it('closes what it does not choose, and passes on what went wrong if nothing works', async () => {
    const serving = [tcp(), tcp()]
    const [{ points }] = (await accessTo(serving)) as [RankAccess]
    const reader = tcp()
    const connect = (index: number) => reader.connect(serving[index]!.descriptor, { secret, timeoutMs: 20_000 })
    const candidates = [
      { peer: await connect(0), point: points[0]! },
      { peer: await connect(1), point: points[1]! },
    ]
    await serving[0]!.close()
    const { chosen, measured } = await fastestOf(candidates, { host, signal })
    expect([chosen === candidates[1], measured.length]).toEqual([true, 1])
    expect(candidates.map(({ peer }) => peer.alive)).toEqual([false, true])
    await serving[1]!.close()
    await expect(fastestOf([candidates[1]!], { host, signal })).rejects.toSatisfy((error) => CkptError.is(error, 'PEER_LOST'))
  })
})
