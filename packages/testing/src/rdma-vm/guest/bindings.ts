/** The addon alone, on soft-RoCE: what it moves, and how it fails. */
import { createHash } from 'node:crypto'
import { probeRdma } from '@ckpt/rdma-core-bindings'
import { ibReadBandwidth, list, median } from './bandwidth.ts'
import { fill, pages } from './bytes.ts'
import { Connection } from './connection.ts'
import { expect, expectEqual, failureOf, finish, sh, test } from './report.ts'

const MIB = 2 ** 20
const BYTES = 16 * MIB
const LOOPBACK = [['rxe0', 'rxe0']] as const
const WIRE = [['xa_rxe', 'xb_rxe']] as const
const WIRES = [...WIRE, ['ya_rxe', 'yb_rxe']] as const
/** Time in milliseconds that a failing link may take: (retries + 1) timeouts, which devices may extend fourfold. */
const LOST_MS = 10_000
const BANDWIDTH_SHARE = 0.85

function expected(seed: number, bytes = BYTES): Buffer {
  const buffer = pages(bytes)
  fill(buffer, seed)
  return buffer
}

await test('devices, ports and GIDs are listed', async () => {
  const { available, problem, devices } = await probeRdma()
  expect(available, `libibverbs: ${problem}`)
  expectEqual(
    devices.map(({ name }) => name),
    ['rxe0', 'xa_rxe', 'xb_rxe', 'ya_rxe', 'yb_rxe'],
    'devices',
  )
  const port = devices[0]!.ports[0]!
  expectEqual([port.port, port.state, port.linkLayer, port.activeMtu], [1, 'ACTIVE', 'Ethernet', 4096], 'port')
  const gid = port.gids.find(({ type, gid: text }) => type === 'RoCE v2' && text.startsWith('0000:0000:0000:0000:0000:ffff:'))
  expectEqual([gid?.index, gid?.gid, gid?.interface], [1, '0000:0000:0000:0000:0000:ffff:0a00:0001', 'dummy0'], 'GID')
})

await test('the examples run', async () => {
  const found = sh('node lib/examples/devices.mjs')
  expect(/^rxe0 [\s\S]*port 1: ACTIVE, Ethernet/m.test(found), found)
  const read = sh('node lib/examples/read.mjs rxe0 1')
  expect(/^67108864 bytes at .*, the same$/m.test(read), read)
  return Promise.resolve(read.trim())
})

await test('READ of 16 MiB over two devices with two queue pairs each', async () => {
  await using connection = await Connection.open({ devices: WIRES, bytes: BYTES, seed: 7, pairs: 2 })
  expectEqual(await connection.move('read'), BYTES, 'bytes')
  expect(connection.memory.equals(expected(7)), 'the bytes differ')
})

await test('WRITE of 16 MiB', async () => {
  await using connection = await Connection.open({ devices: LOOPBACK, bytes: BYTES, writable: true })
  fill(connection.memory, 11)
  expectEqual(await connection.move('write'), BYTES, 'bytes')
  const digest = createHash('sha256').update(expected(11)).digest('hex')
  expectEqual(await connection.call('digest', null), digest, 'digest at the peer')
})

await test('READ of 2,000 runs of odd sizes at odd places', async () => {
  await using connection = await Connection.open({ devices: WIRES, bytes: BYTES, seed: 3, pairs: 2 })
  const rows: [number, number, number][] = []
  const source = expected(3)
  const target = pages(BYTES)
  let at = 0
  for (let i = 0; i < 2000; i++) {
    const bytes = 1 + ((i * 7919) % 9001)
    if (at + bytes > BYTES) break
    const from = (i * 104_729) % (BYTES - bytes)
    rows.push([from, at, bytes])
    source.copy(target, at, from, from + bytes)
    at += bytes
  }
  expectEqual(await connection.move('read', { rows, pieceBytes: 4096 }), at, 'bytes')
  expect(connection.memory.equals(target), 'the bytes differ')
  return `${rows.length} runs, ${at} bytes`
})

await test('a range outside a memory is refused before anything is sent', async () => {
  await using connection = await Connection.open({ devices: LOOPBACK, bytes: MIB })
  for (const rows of [[[1, 0, MIB]], [[0, 1, MIB]], [[0, 0, -1]], [[0.5, 0, 1]]] as [number, number, number][][]) {
    const { error } = await failureOf(connection.move('read', { rows }))
    expectEqual([error.code, error.field], ['INVALID_ARGUMENT', 'transfers'], JSON.stringify(rows))
  }
  expectEqual(await connection.move('read'), MIB, 'the connection works on')
})

await test('a wrong key is REGION_REFUSED', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: MIB })
  const { error, milliseconds } = await failureOf(connection.move('read', { keyOffset: 77 }))
  expectEqual([error.code, error.status, error.region], ['REGION_REFUSED', 'IBV_WC_REM_ACCESS_ERR', 0], 'error')
  expect(milliseconds < LOST_MS, `it took ${milliseconds} ms`)
  return `after ${milliseconds.toFixed(0)} ms`
})

await test('WRITE to a region that is not writable is REGION_REFUSED', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: MIB })
  const { error } = await failureOf(connection.move('write'))
  expectEqual([error.code, error.status], ['REGION_REFUSED', 'IBV_WC_REM_ACCESS_ERR'], 'error')
})

await test('a closed region is REGION_REFUSED', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: MIB })
  expectEqual(await connection.move('read'), MIB, 'bytes')
  await connection.call('closeRegions', null)
  const { error } = await failureOf(connection.move('read'))
  expectEqual(error.code, 'REGION_REFUSED', 'code')
})

/** The whole memory repeatedly, so that a fault can happen in the middle. */
const MANY_TIMES = Array.from({ length: 12 }, () => [0, 0, BYTES] as const)

/** Called once, when bytes are moving. */
function onceMoving(act: () => void): (bytes: number) => void {
  let acted = false
  return () => {
    if (acted) return
    acted = true
    act()
  }
}

/** Takes a link down, and up again. */
async function withoutLink(end: string, body: () => Promise<void>): Promise<void> {
  try {
    await body()
  } finally {
    sh(`ip link set ${end} up`)
    await untilActive()
  }
}

/** A link that came up needs a moment until its device uses it. */
async function untilActive(): Promise<void> {
  for (let i = 0; i < 100; i++) {
    const { devices } = await probeRdma()
    if (devices.every(({ ports }) => ports.every(({ state }) => state === 'ACTIVE'))) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error('a port did not become active again')
}

await test('a cancelled batch ends with ABORTED, and the connection works on', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: BYTES, seed: 5 })
  const controller = new AbortController()
  const onProgress = onceMoving(() => controller.abort())
  const { error, milliseconds } = await failureOf(
    connection.move('read', { rows: MANY_TIMES, signal: controller.signal, onProgress }),
  )
  expectEqual(error.code, 'ABORTED', 'code')
  connection.memory.fill(0)
  expectEqual(await connection.move('read'), BYTES, 'bytes')
  expect(connection.memory.equals(expected(5)), 'the bytes differ')
  return `after ${milliseconds.toFixed(0)} ms`
})

await test('with 1 % of packets lost the bytes are right', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: BYTES, seed: 9, retries: 6 })
  sh('tc qdisc add dev xa root netem loss 1%; tc qdisc add dev xb root netem loss 1%')
  try {
    expectEqual(await connection.move('read', { timeoutMs: 60_000, pieceBytes: MIB / 4 }), BYTES, 'bytes')
  } finally {
    sh('tc qdisc del dev xa root; tc qdisc del dev xb root')
  }
  expect(connection.memory.equals(expected(9)), 'the bytes differ')
})

await test('a killed peer is PEER_LOST', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: BYTES })
  let killed = 0
  const onProgress = onceMoving(() => {
    killed = performance.now()
    connection.kill()
  })
  const { error } = await failureOf(connection.move('read', { rows: MANY_TIMES, onProgress }))
  const milliseconds = performance.now() - killed
  expectEqual([error.code, error.status], ['PEER_LOST', 'IBV_WC_RETRY_EXC_ERR'], 'error')
  expect(milliseconds < LOST_MS, `it took ${milliseconds} ms`)
  return `after ${milliseconds.toFixed(0)} ms`
})

await test('one of two links going down: the other one moves the rest', async () => {
  await using connection = await Connection.open({ devices: WIRES, bytes: BYTES, seed: 13, retries: 1 })
  await withoutLink('xb', async () => {
    const onProgress = onceMoving(() => sh('ip link set xb down'))
    expectEqual(await connection.move('read', { rows: MANY_TIMES, onProgress }), MANY_TIMES.length * BYTES, 'bytes')
  })
  expect(connection.memory.equals(expected(13)), 'the bytes differ')
})

await test('all links down is PEER_LOST', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: BYTES, retries: 1 })
  let milliseconds = 0
  await withoutLink('xb', async () => {
    let down = 0
    const onProgress = onceMoving(() => {
      sh('ip link set xb down')
      down = performance.now()
    })
    const { error } = await failureOf(connection.move('read', { rows: MANY_TIMES, onProgress }))
    milliseconds = performance.now() - down
    expectEqual([error.code, error.status], ['PEER_LOST', 'IBV_WC_RETRY_EXC_ERR'], 'error')
  })
  expect(milliseconds < LOST_MS, `it took ${milliseconds} ms`)
  return `after ${milliseconds.toFixed(0)} ms`
})

await test('nothing moving for the batch’s own timeout is PEER_LOST', async () => {
  await using connection = await Connection.open({ devices: WIRE, bytes: BYTES, timeout: 20, retries: 6 })
  let took = 0
  await withoutLink('xb', async () => {
    sh('ip link set xb down')
    const { error, milliseconds } = await failureOf(connection.move('read', { timeoutMs: 500 }))
    took = milliseconds
    expectEqual(error.code, 'PEER_LOST', 'code')
  })
  expect(took >= 500 && took < 5000, `it took ${took} ms`)
  return `after ${took.toFixed(0)} ms`
})

await test(`READ at 1 MiB reaches ${BANDWIDTH_SHARE * 100} % of ib_read_bw`, async () => {
  const iterations = 96
  const ours: number[] = []
  const theirs: number[] = []
  await using connection = await Connection.open({ devices: LOOPBACK, bytes: MIB, depth: 64 })
  const rows = Array.from({ length: iterations }, () => [0, 0, MIB] as const)
  // Alternating, and repeated if the difference may have been only an emulated machine's noise.
  for (let round = 1; round <= 9; round++) {
    theirs.push(await ibReadBandwidth(iterations))
    const start = performance.now()
    await connection.move('read', { rows })
    ours.push((iterations * MIB) / 1e3 / (performance.now() - start))
    if (round % 3 === 0 && median(ours) >= BANDWIDTH_SHARE * median(theirs)) break
  }
  const share = median(ours) / median(theirs)
  const text = `${list(ours)} MB/s, ib_read_bw ${list(theirs)}, medians ${(share * 100).toFixed(0)} %`
  expect(share >= BANDWIDTH_SHARE, text)
  return text
})

finish()
