import { expect, it } from 'vitest'
import { probeCuda } from './cuda/addon.ts'
import { nodeFacts } from './node-facts.ts'

it('tells of every addon whether it loads, and what the CUDA one finds', async () => {
  const { addons, cuda } = await nodeFacts()
  expect(addons).toEqual([
    { name: 'host', problem: undefined },
    { name: 'cuda', problem: undefined },
  ])
  expect(cuda).toEqual(await probeCuda())
})
