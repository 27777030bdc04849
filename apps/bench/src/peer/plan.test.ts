import { model } from '@ckpt/models'
import { describe, expect, it } from 'vitest'
import { comparePlanning } from './plan.ts'

const small = { model: model('llama-3.1-8b'), ranks: 4, repeat: 3 }

describe('comparePlanning', () => {
  it('says why it cannot compare where there is no interpreter', async () => {
    expect(await comparePlanning({ ...small, python: '/nonexistent/python' })).toEqual({
      skipped: 'no Python interpreter /nonexistent/python',
    })
  })

  it('compares on the same tensors, or names the package that is missing', async () => {
    const result = await comparePlanning(small)
    if ('skipped' in result) {
      expect(result.skipped).toMatch(/ModuleNotFoundError|ImportError|no Python interpreter/)
      console.warn(`not compared: ${result.skipped}`)
      return
    }
    expect(result.tensors).toBe(291)
    expect(result.peer.samples).toHaveLength(3)
    // Both pack greedily by the same size and differ only in alignment.
    expect(Math.abs(result.peer.buckets - result.ours.buckets)).toBeLessThanOrEqual(small.ranks)
    expect(result.ratio).toBeCloseTo(result.peer.median / result.ours.median)
  })

  it('fails, rather than skips, when the interpreter breaks', async () => {
    await expect(comparePlanning({ ...small, python: '/bin/false' })).rejects.toMatchObject({ code: 'NATIVE_FAILURE' })
  })
})
