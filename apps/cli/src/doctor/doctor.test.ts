import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { CudaDeviceInfo, CudaProbe } from '@ckpt/core'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { addonsSection } from './addons.ts'
import { missing, ok, required, type Check, type Section } from './check.ts'
import { examine, lacking } from './doctor.ts'
import { environmentSection } from './environment.ts'
import { gpusSection } from './gpus.ts'
import { memorySection } from './memory.ts'
import { parseFree, parseTopology } from './nvidia-smi.ts'
import { askPython, pythonSection } from './python.ts'
import { rdmaSection } from './rdma.ts'
import { ucxSection } from './ucx.ts'
import { renderJson, renderText } from './render.ts'
import { systemFiles } from './system-files.ts'

const GIB = 2 ** 30
let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'ckpt-doctor-'))
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(root, { recursive: true, force: true })
})

function tree(files: Record<string, string>): ReturnType<typeof systemFiles> {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), `${text}\n`)
  }
  return systemFiles(root)
}

function find({ checks }: Section, id: string): Check {
  const check = checks.find((candidate) => candidate.id === id)
  expect(check, id).toBeDefined()
  return check!
}

describe('this machine', () => {
  it('is ready, and every finding that is not ok has a remedy', async () => {
    const script = fileURLToPath(import.meta.url)
    const sections = await examine({ python: 'python3', environment: process.env, script })
    const checks = sections.flatMap((section) => section.checks)
    expect(lacking(sections, [])).toEqual([])
    for (const { status, remedy } of checks) expect(remedy === undefined).toBe(status === 'ok')
    expect(new Set(checks.map(({ id }) => id)).size).toBe(checks.length)
    expect(checks.find(({ id }) => id === 'addon.host')).toMatchObject({ status: 'ok', required: true })
    expect(checks.find(({ id }) => id === 'system')?.facts).toMatchObject({ glibc: expect.stringMatching(/^2\.\d+/) })
    expect(checks.find(({ id }) => id === 'memory')?.facts?.['totalBytes']).toBeGreaterThan(GIB / 4)
    expect(JSON.parse(renderJson(sections, []))).toMatchObject({ schema: 1, ready: true })
    expect(renderText(sections, [])).toContain('\nready: ')
  })
})

describe('lacking', () => {
  const sections = [
    { title: 'A', checks: [ok('a', 'here'), missing('b.one', 'gone', 'get it'), required(missing('c', 'gone', 'get it'))] },
  ]

  it('is what is required and missing, and what was asked for', () => {
    expect(lacking(sections, []).map(({ id }) => id)).toEqual(['c'])
    expect(lacking(sections, ['a', 'b', 'c']).map(({ id }) => id)).toEqual(['c', 'b.one'])
  })

  it('has a name that nothing answers to', () => {
    expect(lacking(sections, ['a.b', 'typo']).map(({ id }) => id)).toEqual(['c', 'a.b', 'typo'])
  })
})

describe('memory', () => {
  const limits = (memlock: string, files: string) =>
    [
      `Max locked memory         ${memlock}              ${memlock}              bytes`,
      `Max open files            ${files}                 1048576              files`,
    ].join('\n')
  const meminfo = 'MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   8388608 kB'

  const group = {
    file: '/sys/fs/cgroup/pod/memory.max',
    text: '/sys/fs/cgroup/pod/memory.max is 4.0 GiB, 3.5 GiB of it used',
    bytes: 4 * GIB,
    used: 3.5 * GIB,
    available: GIB / 2,
  }

  it('warns of a limited address space, and of memory set aside for hugetlbfs', () => {
    const section = memorySection(
      tree({
        '/proc/self/limits': `Max address space   ${64 * GIB}   unlimited   bytes`,
        '/proc/meminfo': `${meminfo}\nHugePages_Total:    1024\nHugePages_Free:      512\nHugepagesize:       2048 kB`,
      }),
      { limits: [], shm: undefined },
    )
    expect(find(section, 'address-space')).toMatchObject({ status: 'warn', facts: { bytes: 64 * GIB } })
    expect(find(section, 'hugetlb')).toMatchObject({ status: 'warn', facts: { total: 1024, free: 512, pageBytes: 2 ** 21 } })
    expect(find(section, 'memory')).toMatchObject({ status: 'ok', facts: { limits: [] } })
    const none = memorySection(tree({ '/proc/meminfo': 'HugePages_Total: 0', '/proc/self/limits': '' }), {
      limits: [],
      shm: undefined,
    })
    expect(find(none, 'hugetlb').status).toBe('ok')
    expect(find(none, 'address-space').status).toBe('ok')
  })

  it('warns of a small /dev/shm, locked-memory limit and few files, as containers have them', () => {
    const files = tree({
      '/proc/meminfo': meminfo,
      '/proc/self/limits': limits('67108864', '1024'),
      '/proc/self/status': 'CapEff:\t00000000a80425fb',
      '/sys/kernel/mm/transparent_hugepage/enabled': 'always madvise [never]',
    })
    const section = memorySection(files, { limits: [group], shm: { total: 64 * 2 ** 20, free: 64 * 2 ** 20 } })
    expect(find(section, 'memory')).toMatchObject({
      status: 'warn',
      found: `17.18 GB, 8.59 GB available; ${group.text}`,
      facts: { totalBytes: 16 * GIB, availableBytes: 8 * GIB, limits: [group] },
    })
    expect(find(section, 'shm')).toMatchObject({ status: 'warn', remedy: expect.stringContaining('--shm-size') })
    expect(find(section, 'memlock')).toMatchObject({ status: 'warn', facts: { bytes: 67108864, capIpcLock: false } })
    expect(find(section, 'files')).toMatchObject({ status: 'warn', facts: { soft: 1024, hard: 1048576 } })
    expect(find(section, 'thp')).toMatchObject({ status: 'warn', facts: { anonymous: 'never' } })
  })

  it('is content with unlimited memory locking, and with the capability in its place', () => {
    const unlimited = tree({ '/proc/self/limits': limits('unlimited', '65536') })
    expect(find(memorySection(unlimited, { limits: [], shm: undefined }), 'memlock').status).toBe('ok')
    const capable = tree({ '/proc/self/limits': limits('65536', '65536'), '/proc/self/status': 'CapEff:\t0000000000004000' })
    expect(find(memorySection(capable, { limits: [], shm: undefined }), 'memlock')).toMatchObject({
      status: 'ok',
      facts: { capIpcLock: true },
    })
  })

  it('does without no /dev/shm', () => {
    const section = memorySection(tree({}), { limits: [], shm: undefined })
    expect(find(section, 'shm')).toMatchObject({ status: 'missing', required: true })
  })
})

describe('addons', () => {
  it('says what an addon was built without, what that means and what to do', () => {
    const { checks } = addonsSection({
      addons: [
        { name: 'host', problem: undefined, without: [] },
        { name: 'cuda', problem: undefined, without: ['nvcc'] },
        { name: 'rdma', problem: undefined, without: ['libibverbs'] },
      ],
    })
    expect(checks).toMatchObject([
      { id: 'addon.host', status: 'ok', required: true, found: 'loaded' },
      { id: 'addon.cuda', status: 'warn', found: expect.stringContaining('built without nvcc') },
      {
        id: 'addon.rdma',
        status: 'warn',
        required: false,
        found: "loaded, but built without libibverbs' headers (no RDMA)",
        remedy: expect.stringMatching(/apt-get install libibverbs-dev.*npm run setup/),
        facts: { without: ['libibverbs'] },
      },
    ])
  })

  it('has the first line of a problem as what was found, and the others as remedies', () => {
    const problem = 'cannot be loaded: it is not built\n- install it\n- build it'
    expect(addonsSection({ addons: [{ name: 'host', problem, without: [] }] }).checks).toMatchObject([
      {
        id: 'addon.host',
        status: 'missing',
        required: true,
        found: 'cannot be loaded: it is not built',
        remedy: 'install it; build it',
      },
    ])
  })
})

describe('gpus', () => {
  const uuid = (index: number) => `GPU-0000000${index}-0000-0000-0000-000000000000`
  const device = (index: number, peers: boolean[]): CudaDeviceInfo => ({
    index,
    name: 'NVIDIA H200',
    uuid: uuid(index),
    pciBusId: `0000:0${index}:00.0`,
    numaNode: index,
    cpus: '0-15',
    computeCapability: 90,
    totalBytes: 150 * GIB,
    peerAccess: peers,
  })
  const library = (version: number, path: string) => ({ available: true, problem: undefined, version, path, attempts: [] })
  const probe = (peer: boolean): CudaProbe => ({
    driver: library(13000, '/usr/lib/libcuda.so.1'),
    nccl: library(22803, '/usr/lib/libnccl.so.2'),
    kernels: { available: true, problem: undefined },
    devices: [device(0, [false, peer]), device(1, [peer, false])],
  })
  const topology = [
    '\t\x1b[4mGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m',
    'GPU0\t X \tNV18\tPIX\t0-15\t0\t\tN/A',
    'GPU1\tNV18\t X \tSYS\t0-15\t0\t\tN/A',
    'NIC0\tPIX\tSYS\t X \t\t\t\t',
    '',
    'Legend:',
    '',
    '  X    = Self',
  ].join('\n')
  const smi = { topology, memory: `${uuid(0)}, 1024\n${uuid(1)}, 2048\n` }

  it('tells devices, links and versions', () => {
    const files = tree({ '/dev/nvidia0': '', '/dev/nvidia1': '', '/dev/nvidiactl': '' })
    const section = gpusSection({ cuda: probe(true), smi, files, environment: {}, pythonNccl: undefined })
    expect(section.checks.every(({ status }) => status === 'ok')).toBe(true)
    expect(find(section, 'gpus').facts).toMatchObject({ devices: [{ freeBytes: GIB }, { freeBytes: 2 * GIB }] })
    expect(find(section, 'gpu.links')).toMatchObject({
      found: '0–1: NV18, P2P',
      facts: { pairs: [{ link: 'NV18', peer: true }] },
    })
    expect(find(section, 'cuda.driver').found).toContain('CUDA 13.0')
    expect(find(section, 'nccl').found).toContain('2.28.3')
    expect(find(section, 'cuda.visible').facts).toMatchObject({ deviceNodes: 2, usable: 2 })
  })

  it('tells what is bound to the memory nodes of the GPUs', () => {
    const section = (files: ReturnType<typeof systemFiles>, cuda = probe(true)) =>
      find(gpusSection({ cuda, smi, files, environment: {}, pythonNccl: undefined }), 'gpu.numa')
    const node = '/sys/devices/system/node'
    expect(section(tree({ [`${node}/node0/cpulist`]: '0-31' })).found).toBe('one memory node: nothing to bind')
    const two = tree({ [`${node}/node0/cpulist`]: '0-15', [`${node}/node1/cpulist`]: '16-31' })
    expect(section(two).found).toContain('0: node 0, CPUs 0-15; 1: node 1, CPUs 0-15')
    const unknown = { ...probe(true), devices: probe(true).devices.map((each) => ({ ...each, numaNode: -1 })) }
    expect(section(two, unknown)).toMatchObject({ status: 'ok', facts: { nodes: 2, bound: [] } })
  })

  it('warns where GPUs do not reach each other, and of GPUs the driver does not see', () => {
    const files = tree({ '/dev/nvidia0': '', '/dev/nvidia1': '', '/dev/nvidia2': '' })
    const section = gpusSection({
      cuda: probe(false),
      smi: { topology: undefined, memory: undefined },
      files,
      environment: {},
      pythonNccl: undefined,
    })
    expect(find(section, 'gpu.links')).toMatchObject({ status: 'warn', found: '0–1: no P2P' })
    expect(find(section, 'cuda.visible').status).toBe('warn')
  })

  it('points to the NCCL of the Python packages where the system has none', () => {
    const nccl = { available: false, problem: 'libnccl.so.2: not found', version: 0, path: undefined, attempts: [] }
    const section = gpusSection({
      cuda: { ...probe(true), nccl },
      smi,
      files: tree({}),
      environment: {},
      pythonNccl: '/venv/nccl/lib/libnccl.so.2',
    })
    expect(find(section, 'nccl')).toMatchObject({
      status: 'missing',
      remedy: expect.stringContaining('CKPT_NCCL_LIBRARY=/venv/nccl/lib/libnccl.so.2'),
    })
  })

  it('says so where the addon is not loaded', () => {
    const section = gpusSection({ cuda: undefined, smi, files: tree({}), environment: {}, pythonNccl: undefined })
    expect(section.checks).toMatchObject([{ id: 'gpus', status: 'missing', required: false }])
  })

  it('reads what nvidia-smi prints, and nothing from nothing', () => {
    expect(parseTopology(topology).get(1)?.get(0)).toBe('NV18')
    expect(parseTopology(undefined).size).toBe(0)
    expect(parseFree('No devices were found\n').size).toBe(0)
  })
})

describe('rdma', () => {
  const port = '/sys/class/infiniband/mlx5_0/ports/1'
  const nic = {
    [`${port}/state`]: '4: ACTIVE',
    [`${port}/link_layer`]: 'Ethernet',
    [`${port}/rate`]: '400 Gb/sec (4X NDR)',
    [`${port}/gids/0`]: 'fe80:0000:0000:0000:a288:c2ff:fe00:1234',
    [`${port}/gids/1`]: '0000:0000:0000:0000:0000:ffff:0a00:0001',
    [`${port}/gids/2`]: '0000:0000:0000:0000:0000:0000:0000:0000',
    '/sys/class/infiniband/mlx5_0/device/numa_node': '1',
    '/dev/infiniband/uverbs0': '',
  }

  const probe = {
    available: true,
    problem: undefined,
    path: '/lib/libibverbs.so.1',
    dmabuf: true,
    devices: [{ name: 'mlx5_0', problem: undefined } as never],
  }
  const choice = {
    nics: [{ device: 'mlx5_0', port: 1, gidIndex: 3 } as never],
    source: 'NCCL_IB_HCA' as const,
    notes: ['mlx5_1:1 is left out: its state is DOWN'],
  }

  it('tells ports with state, link layer and GIDs in use', () => {
    const section = rdmaSection(tree(nic), { rdma: probe, rdmaChoice: choice }, () => true)
    expect(find(section, 'rdma.mlx5_0')).toMatchObject({
      status: 'ok',
      facts: {
        numaNode: 1,
        ports: [{ port: 1, state: 'ACTIVE', linkLayer: 'Ethernet', rate: '400 Gb/sec (4X NDR)', gids: 2 }],
      },
    })
    expect(find(section, 'rdma.access').status).toBe('ok')
    expect(find(section, 'rdma.verbs')).toMatchObject({ status: 'ok', found: '/lib/libibverbs.so.1 finds 1 devices' })
    expect(find(section, 'rdma.choice').found).toBe('mlx5_0:1 (GID 3), by NCCL_IB_HCA; mlx5_1:1 is left out: its state is DOWN')
  })

  it('finds fault with a port that is down and device nodes that cannot be opened', () => {
    const none = {
      rdma: { ...probe, available: false, problem: 'libibverbs is not installed' },
      rdmaChoice: { problem: 'no port' },
    }
    const section = rdmaSection(tree({ ...nic, [`${port}/state`]: '1: DOWN' }), none, () => false)
    expect(find(section, 'rdma.mlx5_0').status).toBe('warn')
    expect(find(section, 'rdma.access').status).toBe('missing')
    expect(find(section, 'rdma.verbs')).toMatchObject({ status: 'missing', found: 'libibverbs is not installed' })
    expect(find(section, 'rdma.choice')).toMatchObject({ status: 'missing', found: 'no port' })
  })
})

describe('ucx', () => {
  it('tells which library it is, or what is missing', () => {
    const found = { available: true, problem: undefined, path: '/opt/libucp.so.0', version: '1.22.0', endsProcesses: false }
    expect(ucxSection({ ucx: found }).checks).toMatchObject([{ status: 'ok', found: 'UCX 1.22.0 (/opt/libucp.so.0)' }])
    const old = { ...found, version: '1.13.1', endsProcesses: true }
    expect(ucxSection({ ucx: old }).checks).toMatchObject([{ status: 'warn', remedy: expect.stringMatching(/1\.14/) }])
    const none = {
      available: false,
      problem: 'UCX is not installed',
      path: undefined,
      version: undefined,
      endsProcesses: false,
    }
    expect(ucxSection({ ucx: none }).checks).toMatchObject([
      { status: 'missing', found: 'UCX is not installed', remedy: expect.stringMatching(/libucx0/) },
    ])
    expect(ucxSection({ ucx: undefined }).checks).toMatchObject([{ status: 'missing', remedy: 'see addon.ucx' }])
  })
})

describe('python', () => {
  it('asks a real interpreter which packages it has', async (context) => {
    tree({
      '/ckpt_worker/__init__.py': '',
      '/msgspec/__init__.py': '',
      '/msgspec-1.2.3.dist-info/METADATA': 'Name: msgspec\nVersion: 1.2.3',
    })
    vi.stubEnv('PYTHONPATH', root)
    const facts = await askPython('python3')
    if (facts === 'no interpreter python3') return context.skip('no Python interpreter')
    expect(facts).toMatchObject({
      version: expect.stringMatching(/^3\./),
      packages: { ckpt_worker: 'version unknown', msgspec: '1.2.3' },
    })
    expect(find(pythonSection(facts), 'python.msgspec').status).toBe('ok')
  })

  it('names what an interpreter lacks', () => {
    const packages = { torch: '2.11.0', pyzmq: '27.0', msgspec: null, ckpt_worker: null, vllm: '0.12' }
    const section = pythonSection({ version: '3.12.1', path: '/usr/bin/python3', nccl: null, packages })
    expect(find(section, 'python').found).toBe('3.12.1 at /usr/bin/python3, vllm 0.12')
    expect(find(section, 'python.torch').status).toBe('ok')
    expect(find(section, 'python.msgspec').status).toBe('missing')
    expect(find(section, 'python.ckpt_worker').remedy).toContain('PYTHONPATH')
  })

  it('tells of an interpreter that is missing or fails', async () => {
    expect(await askPython(join(root, 'python'))).toContain('no interpreter')
    expect(await askPython('false')).toContain('false fails')
    expect(pythonSection('no interpreter x').checks).toMatchObject([{ id: 'python', status: 'missing' }])
  })
})

describe('environment', () => {
  it('shows what matters and hides secrets', () => {
    const section = environmentSection({ NCCL_IB_HCA: '^mlx5_1', CKPT_TOKEN: 'secret', EDITOR: 'vi', PS_MEM_FRACTION: '0.5' })
    expect(section.checks).toHaveLength(1)
    expect(find(section, 'environment').found).toBe('CKPT_TOKEN=(set, not shown)\nNCCL_IB_HCA=^mlx5_1\nPS_MEM_FRACTION=0.5')
    expect(JSON.stringify(section)).not.toContain('"secret"')
  })

  it('names a variable that updates would refuse', () => {
    const section = environmentSection({ PS_MEM_FRACTION: '7' })
    expect(find(section, 'environment.limits')).toMatchObject({
      status: 'warn',
      found: expect.stringContaining('PS_MEM_FRACTION=7'),
    })
  })
})
