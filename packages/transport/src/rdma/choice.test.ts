import type { ErrorCode } from '@ckpt/contract'
import type { RdmaDeviceInfo, RdmaGid, RdmaPort } from '@ckpt/rdma-core-bindings'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { assignNics, nearness, type Place } from './assign.ts'
import { chooseNics, nicName } from './choose.ts'
import { MOST_HCAS, parseHcaList, selects } from './hca-list.ts'

const IPV4 = '0000:0000:0000:0000:0000:ffff:0a00:0001'
const LINK_LOCAL = 'fe80:0000:0000:0000:0001:0002:0003:0004'
const NOWHERE: Place = { path: [], numaNode: -1 }

function ckptError(code: ErrorCode, message: RegExp): Error {
  return expect.objectContaining({ code, message: expect.stringMatching(message) }) as Error
}

function gid(index: number, text: string, type: RdmaGid['type'] = 'RoCE v2'): RdmaGid {
  return { index, gid: text, type, interface: 'eth0' }
}

function port(number = 1, changes: Partial<RdmaPort> = {}): RdmaPort {
  return {
    port: number,
    state: 'ACTIVE',
    linkLayer: 'Ethernet',
    activeMtu: 4096,
    maxMtu: 4096,
    lid: 0,
    gigabitsPerSecond: 400,
    gids: [gid(0, LINK_LOCAL, 'RoCE v1'), gid(1, LINK_LOCAL), gid(2, IPV4, 'RoCE v1'), gid(3, IPV4)],
    ...changes,
  }
}

function device(name: string, changes: Partial<RdmaDeviceInfo> = {}): RdmaDeviceInfo {
  return {
    name,
    problem: undefined,
    nodeGuid: '',
    firmware: '',
    vendorId: 0,
    vendorPartId: 0,
    pciBusId: undefined,
    numaNode: -1,
    cpus: '',
    maxQueuePairs: 1,
    maxWorkRequests: 1,
    maxReadsOut: 1,
    maxReadsIn: 1,
    maxRegionBytes: 1,
    ports: [port()],
    ...changes,
  }
}

function mlx5(count: number): RdmaDeviceInfo[] {
  return Array.from({ length: count }, (_, index) => device(`mlx5_${index}`))
}

function chosen(devices: readonly RdmaDeviceInfo[], env: Record<string, string>): string[] {
  return chooseNics(devices, env).nics.map(nicName)
}

describe('NCCL_IB_HCA', () => {
  const twoPorts = [device('mlx5_0', { ports: [port(1), port(2)] }), device('mlx5_1'), device('mlx5_10'), device('rxe0')]
  const all = ['mlx5_0:1', 'mlx5_0:2', 'mlx5_1:1', 'mlx5_10:1', 'rxe0:1']

  it.each([
    ['', all],
    ['mlx5', ['mlx5_0:1', 'mlx5_0:2', 'mlx5_1:1', 'mlx5_10:1']],
    ['mlx5_1', ['mlx5_1:1', 'mlx5_10:1']],
    ['=mlx5_1', ['mlx5_1:1']],
    ['=mlx5_0:1,mlx5_1:1', ['mlx5_0:1', 'mlx5_1:1']],
    ['mlx5_0:2', ['mlx5_0:2']],
    ['mlx5:1', ['mlx5_0:1', 'mlx5_1:1', 'mlx5_10:1']],
    ['^mlx5', ['rxe0:1']],
    ['^mlx5_1', ['mlx5_0:1', 'mlx5_0:2', 'rxe0:1']],
    ['^=mlx5_1', ['mlx5_0:1', 'mlx5_0:2', 'mlx5_10:1', 'rxe0:1']],
    ['^=mlx5_0:2', ['mlx5_0:1', 'mlx5_1:1', 'mlx5_10:1', 'rxe0:1']],
    [' rxe , =mlx5_1', ['rxe0:1']], // the prefix counts in front of the list alone
    ['=,', all],
    ['rxe0,mlx5_10,', ['mlx5_10:1', 'rxe0:1']],
  ])('%j selects as NCCL does', (value, expected) => {
    expect(chosen(twoPorts, { NCCL_IB_HCA: value })).toEqual(expected)
  })

  it('says what is there when nothing is left', () => {
    expect(() => chosen(twoPorts, { NCCL_IB_HCA: '=mlx5' })).toThrow(
      ckptError('UNSUPPORTED', /NCCL_IB_HCA="=mlx5".*mlx5_0, mlx5_1/),
    )
    expect(() => chosen(twoPorts, { NCCL_IB_HCA: '^' })).toThrow(ckptError('UNSUPPORTED', /leaves no usable RDMA port/))
    expect(() => chosen([], {})).toThrow(ckptError('UNSUPPORTED', /there is none/))
  })

  it.each(['mlx5_0:x', 'mlx5_0:0', 'mlx5_0:1:2', ':1', 'mlx5_0:'])('refuses %j', (value) => {
    expect(() => parseHcaList(value)).toThrow(ckptError('INVALID_ARGUMENT', /NCCL_IB_HCA: ".*" is not a device name/))
  })

  it('takes 32 HCAs at most, and says which it leaves out', () => {
    const { nics, notes } = chooseNics(mlx5(34), {})
    expect(nics).toHaveLength(MOST_HCAS)
    expect(nics.at(-1)!.device).toBe('mlx5_31')
    expect(notes).toEqual(['mlx5_32:1 is left out: 32 are the most', 'mlx5_33:1 is left out: 32 are the most'])
    expect(
      parseHcaList(
        mlx5(40)
          .map(({ name }) => name)
          .join(),
      ).entries,
    ).toHaveLength(MOST_HCAS)
  })

  it('with ^ selects exactly what it does not without', () => {
    const names = fc.constantFrom('mlx5', 'mlx5_1', 'mlx5_10', 'mlx4_0', 'rxe0', 'm')
    const entry = fc.tuple(names, fc.option(fc.integer({ min: 1, max: 3 })))
    fc.assert(
      fc.property(
        fc.array(entry, { minLength: 1, maxLength: 5 }),
        fc.boolean(),
        names,
        fc.integer({ min: 1, max: 3 }),
        (list, exact, name, at) => {
          const text = (exact ? '=' : '') + list.map(([one, number]) => (number === null ? one : `${one}:${number}`)).join()
          const expected = list.some(
            ([one, number]) => (exact ? name === one : name.startsWith(one)) && (number === null || number === at),
          )
          expect(selects(parseHcaList(text), name, at)).toBe(expected)
          expect(selects(parseHcaList(`^${text}`), name, at)).toBe(!expected)
        },
      ),
    )
  })
})

describe('PS_P2P_STORE_RDMA_DEVICES', () => {
  it('goes before NCCL_IB_HCA, names exactly, and keeps its order', () => {
    const env = { PS_P2P_STORE_RDMA_DEVICES: 'mlx5_3, mlx5_1,mlx5_3', NCCL_IB_HCA: 'mlx5_0' }
    expect(chosen(mlx5(12), env)).toEqual(['mlx5_3:1', 'mlx5_1:1'])
    expect(chooseNics(mlx5(12), env).source).toBe('PS_P2P_STORE_RDMA_DEVICES')
  })

  it('counts as absent when it is empty', () => {
    expect(chosen(mlx5(2), { PS_P2P_STORE_RDMA_DEVICES: ' ', NCCL_IB_HCA: '=mlx5_1' })).toEqual(['mlx5_1:1'])
  })

  it('is an error for what is not there', () => {
    const name = (value: string) => () => chosen(mlx5(2), { PS_P2P_STORE_RDMA_DEVICES: value })
    expect(name('mlx5_7')).toThrow(ckptError('INVALID_ARGUMENT', /names mlx5_7; this machine has mlx5_0, mlx5_1/))
    expect(name('mlx5_1:2')).toThrow(ckptError('INVALID_ARGUMENT', /names mlx5_1:2/))
  })
})

describe('ports', () => {
  it('must be active and have a RoCE v2 GID, IPv4 before IPv6', () => {
    const devices = [
      device('mlx5_0', { ports: [port(1, { state: 'DOWN' })] }),
      device('mlx5_1', { ports: [port(1, { gids: [gid(0, IPV4, 'RoCE v1')] })] }),
      device('mlx5_2', { problem: 'cannot be opened: Permission denied', ports: [] }),
      device('mlx5_3'),
      device('mlx5_4', { ports: [port(1, { gids: [gid(0, LINK_LOCAL), gid(5, '2001:0db8:0000:0000:0000:0000:0000:0001')] })] }),
    ]
    const { nics, notes } = chooseNics(devices, {})
    expect(nics.map((nic) => [nic.device, nic.gidIndex])).toEqual([
      ['mlx5_3', 3],
      ['mlx5_4', 5],
    ])
    expect(notes).toEqual([
      'mlx5_0:1 is left out: its state is DOWN',
      'mlx5_1:1 is left out: it has no RoCE v2 GID',
      'mlx5_2 is left out: it cannot be opened: Permission denied',
    ])
  })

  it('take the GID that NCCL_IB_GID_INDEX says', () => {
    expect(chooseNics(mlx5(1), { NCCL_IB_GID_INDEX: '1' }).nics[0]!.gidIndex).toBe(1)
    expect(chooseNics(mlx5(1), { NCCL_IB_GID_INDEX: '-1' }).nics[0]!.gidIndex).toBe(3)
    expect(() => chooseNics(mlx5(1), { NCCL_IB_GID_INDEX: '9' })).toThrow(ckptError('UNSUPPORTED', /no GID at index 9/))
    expect(() => chooseNics(mlx5(1), { NCCL_IB_GID_INDEX: 'x' })).toThrow(ckptError('INVALID_ARGUMENT', /NCCL_IB_GID_INDEX/))
  })

  it('of InfiniBand use the first GID', () => {
    const ib = device('ib0', { ports: [port(1, { linkLayer: 'InfiniBand', gids: [gid(0, LINK_LOCAL, 'IB')] })] })
    expect(chooseNics([ib], {}).nics[0]).toMatchObject({ linkLayer: 'InfiniBand', gidIndex: 0 })
  })
})

describe('assignNics', () => {
  const at = (path: string, numaNode = -1): Place => ({ path: path.split('/'), numaNode })
  const nodes = (...list: number[]): Place[] => list.map((numaNode) => ({ path: [], numaNode }))
  const nowhere = (count: number): Place[] => Array<Place>(count).fill(NOWHERE)

  it('gives neighbours the same NIC where nothing is known of places', () => {
    expect(assignNics(nowhere(8), nowhere(2))).toEqual([[0], [0], [0], [0], [1], [1], [1], [1]])
    expect(assignNics(nowhere(4), nowhere(4))).toEqual([[0], [1], [2], [3]])
    expect(assignNics(nowhere(2), nowhere(8))).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
    ])
  })

  it('prefers the same switch, then the same root complex, then the same memory node', () => {
    const gpu = at('pci0000:40/0000:40:01.1/0000:41:00.0/0000:42:00.0/0000:43:00.0', 0)
    expect(nearness(gpu, at('pci0000:40/0000:40:01.1/0000:41:00.0/0000:42:01.0/0000:44:00.0', 0))).toBe('switch')
    expect(nearness(gpu, at('pci0000:40/0000:40:03.1/0000:51:00.0', 0))).toBe('root')
    expect(nearness(gpu, at('pci0000:60/0000:60:01.1/0000:61:00.0', 0))).toBe('node')
    expect(nearness(gpu, at('pci0000:80/0000:80:01.1/0000:81:00.0', 1))).toBe('far')
    expect(nearness(gpu, NOWHERE)).toBeUndefined()
  })

  it('crosses lists over where that is nearer', () => {
    expect(assignNics(nodes(1, 1, 0, 0), nodes(0, 1))).toEqual([[1], [1], [0], [0]])
    expect(assignNics(nodes(1, 0), nodes(0, 0, 1, 1))).toEqual([
      [2, 3],
      [0, 1],
    ])
  })

  it.each([
    [8, 3],
    [3, 8],
    [6, 4],
    [1, 0],
    [0, 1],
  ])('%i GPUs and %i NICs are refused', (gpus, nics) => {
    expect(() => assignNics(nowhere(gpus), nowhere(nics))).toThrow(
      ckptError('PLAN_INFEASIBLE', gpus === 0 ? /no GPU/ : /name 1, /),
    )
  })

  it('says which counts would do', () => {
    expect(() => assignNics(nowhere(8), nowhere(3))).toThrow(
      ckptError('PLAN_INFEASIBLE', /8 GPUs or ranks cannot share 3 NICs evenly; name 1, 2, 4, 8, 16/),
    )
  })

  it('loads every NIC alike, and never prefers a far NIC to a near one that it could swap for', () => {
    const place = fc.integer({ min: -1, max: 2 }).map((numaNode): Place => ({ path: [], numaNode }))
    const counts = fc.tuple(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 4 }), fc.boolean())
    fc.assert(
      fc.property(counts, fc.array(place, { minLength: 40, maxLength: 40 }), ([few, times, moreGpus], places) => {
        const gpus = places.slice(0, moreGpus ? few * times : few)
        const nics = places
          .slice(gpus.length, gpus.length + (moreGpus ? few : few * times))
          .concat(places)
          .slice(0, moreGpus ? few : few * times)
        const assigned = assignNics(gpus, nics)
        const users = nics.map((_, nic) => assigned.filter((list) => list.includes(nic)).length)
        expect(new Set(users).size).toBe(1)
        expect(new Set(assigned.map(({ length }) => length)).size).toBe(1)
      }),
    )
  })
})
