import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { alignDown, alignUp, firstIssue, onAbort, sameSecret } from './index.ts'

describe('alignment', () => {
  it('is the nearest multiple on either side, for sizes beyond 32 bits too', () => {
    const power = fc.integer({ min: 0, max: 30 }).map((log2) => 2 ** log2)
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 52 }), power, (value, alignment) => {
        const [up, down] = [alignUp(value, alignment), alignDown(value, alignment)]
        expect([up % alignment, down % alignment]).toEqual([0, 0])
        expect(up - value).toBeGreaterThanOrEqual(0)
        expect(up - value).toBeLessThan(alignment)
        expect(value - down).toBeGreaterThanOrEqual(0)
        expect(value - down).toBeLessThan(alignment)
      }),
    )
  })
})

describe('onAbort', () => {
  it('acts at an abort, at once where that has been, and no more once it is told to stop', () => {
    const [controller, act, stopped] = [new AbortController(), vi.fn(), vi.fn()]
    onAbort(controller.signal, act)
    onAbort(controller.signal, stopped)()
    controller.abort()
    expect(act).toHaveBeenCalledTimes(1)
    onAbort(controller.signal, act)
    expect(act).toHaveBeenCalledTimes(2)
    expect(stopped).not.toHaveBeenCalled()
    expect(onAbort(undefined, stopped)()).toBeUndefined()
  })
})

describe('sameSecret', () => {
  it('is true for equal texts alone, of whatever lengths', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
        expect(sameSecret(a, b)).toBe(Buffer.from(a).equals(Buffer.from(b)))
        expect(sameSecret(a, a)).toBe(true)
      }),
    )
  })
})

describe('firstIssue', () => {
  it('names the field by its path', () => {
    const parsed = z.object({ a: z.array(z.number()) }).safeParse({ a: [1, 'two'] })
    expect(firstIssue(parsed.error!)).toMatchObject({ field: 'a.1' })
    expect(firstIssue(z.string().safeParse(1).error!).field).toBe('')
  })
})
