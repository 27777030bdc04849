/** Whole p2p updates over RDMA: ranks that hold a checkpoint, ranks that join from saved metas, engine workers, every byte verified. */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { generateCheckpoint } from '../../checkpoint/generate.ts'
import { Cluster } from '../../cluster/cluster.ts'
import { expect, expectEqual, finish, test } from './report.ts'

const MIB = 2 ** 20
const PATIENCE_MS = 120_000
const TIMEOUT_MS = 60_000
/** Maximum payload of a packet. */
const PACKET_BYTES = 4096

const [role = 'both', folder = '/tmp', address = '127.0.0.1'] = process.argv.slice(2)
const metas = `${folder}/metas`
const done = `${folder}/updated`
// The same bytes on both machines.
const checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), 12 * MIB, 21n, 'rdma')

/** Ranks that pull nothing over TCP: RDMA or an error. */
const environment = (devices: string) => (): NodeJS.ProcessEnv => ({
  CKPT_P2P_RDMA: 'require',
  PS_P2P_STORE_RDMA_DEVICES: devices,
  CKPT_P2P_ADDRESS: address,
  NCCL_IB_TIMEOUT: '17',
  NCCL_IB_QPS_PER_CONNECTION: '1',
})

async function owners(devices: string): Promise<Cluster> {
  const cluster = await Cluster.start({
    ranks: 1,
    timeoutMs: TIMEOUT_MS,
    heartbeatTimeoutMs: 30_000,
    env: environment(devices),
  })
  await cluster.register('a', checkpoint.directory)
  await cluster.all('gatherMetas', () => ({ name: 'a', digests: true }))
  await cluster.ranks[0]!.call('saveMetas', { name: 'a', path: `${metas}.part` })
  renameSync(`${metas}.part`, metas)
  return cluster
}

async function join(devices: string): Promise<string> {
  await using cluster = await Cluster.start({
    ranks: 1,
    timeoutMs: TIMEOUT_MS,
    heartbeatTimeoutMs: 30_000,
    env: environment(devices),
    engine: { kind: 'typescript', checkpoint: checkpoint.directory },
  })
  await cluster.all('loadMetas', () => ({ path: metas }))
  const before = packets(devices)
  const [report] = await cluster.update('a', { p2p: [0] })
  const received = packets(devices) - before
  expectEqual([report!.strategy, report!.verified, report!.bytes], ['p2p', 'sources', checkpoint.bytes], 'report')
  expect(report!.pull!.bytes >= checkpoint.bytes, `pulled ${report!.pull!.bytes} of ${checkpoint.bytes} bytes`)
  const { verified, mismatches } = await cluster.engines[0]!.verify(checkpoint.files)
  expectEqual([verified, mismatches], [true, []], 'engine')
  // Counters of the devices themselves, which prove that the bytes came through them.
  expect(received * PACKET_BYTES >= checkpoint.bytes, `the devices received ${received} packets`)
  return `${checkpoint.bytes} bytes in ${received} packets`
}

/** Packets that devices have received. */
function packets(devices: string): number {
  const counters = devices.split(',').map((name) => `/sys/class/infiniband/${name}/ports/1/hw_counters/rcvd_pkts`)
  return counters.reduce((sum, file) => sum + Number(readFileSync(file, 'utf8')), 0)
}

if (role === 'both') {
  await test('p2p update over RDMA, two worlds of one machine', async () => {
    await using old = await owners('xb_rxe,yb_rxe')
    const text = await join('xa_rxe,ya_rxe')
    expectEqual(old.ranks.length, 1, 'owners')
    return text
  })
} else if (role === 'owner') {
  await using old = await owners('rxe0')
  await appears(done)
  expectEqual(old.ranks.length, 1, 'owners')
} else {
  await appears(metas)
  await test('p2p update over RDMA from another machine', () => join('rxe0'))
  writeFileSync(done, '')
}
checkpoint[Symbol.dispose]()
finish()

async function appears(file: string): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  while (!existsSync(file)) {
    if (performance.now() > deadline) throw new Error(`${file} did not appear`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
