import { expect, it } from 'vitest'
import { probeCuda } from './cuda/addon.ts'
import { nodeFacts } from './node-facts.ts'
import { probeRdma } from './rdma/probe.ts'
import { probeUcx } from './ucx/endpoint.ts'

it('tells of every addon whether it loads, and what those of devices find', async () => {
  const { addons, limits, cuda, rdma, rdmaChoice, ucx } = await nodeFacts()
  expect(addons).toEqual([
    { name: 'host', problem: undefined, without: [] },
    { name: 'cuda', problem: undefined, without: cuda!.kernels.available ? [] : ['nvcc'] },
    { name: 'rdma', problem: undefined, without: rdma!.problem?.includes('built without') ? ['libibverbs'] : [] },
    { name: 'ucx', problem: undefined, without: ucx!.problem?.includes('built without') ? ['libucx'] : [] },
  ])
  expect(limits!.memory[0]!.available).toBeGreaterThan(0)
  expect(limits!.cpus).toBeGreaterThanOrEqual(1)
  expect(cuda).toEqual(await probeCuda())
  expect(rdma).toEqual(await probeRdma())
  expect(ucx).toMatchObject(await probeUcx())
  if (rdma!.devices.length === 0) expect(rdmaChoice).toBeUndefined()
})
