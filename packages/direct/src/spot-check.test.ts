import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { chooseKinds, chooseLayer, countUpdate, isChecked, nameRecordings, type Candidate } from './spot-check.ts'

const MIB = 2 ** 20
const tensor = fc.record({
  name: fc.oneof(
    fc.tuple(fc.nat(40), fc.constantFrom('mlp.up', 'attn.q', 'experts.7.w1')).map(([n, kind]) => `model.layers.${n}.${kind}`),
    fc.constantFrom('embed', 'lm_head.weight', 'norm'),
  ),
  bytes: fc.oneof(fc.nat(4 * MIB), fc.nat(200 * MIB)),
})
const candidates = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 60 })

describe('spot checks', () => {
  it('take tensors of one layer, at most 64 MiB unless one takes more, the same in whichever order they are given', () => {
    fc.assert(
      fc.property(candidates, fc.string(), (given: Candidate[], seed) => {
        const chosen = chooseLayer(given, seed)
        const present = given.filter(({ bytes }) => bytes > 0)
        if (present.length === 0) return chosen === undefined
        expect(chooseLayer([...given].reverse(), seed)).toEqual(chosen)
        const { layer, tensors } = chosen!
        const sizes = tensors.map((name) => present.find((one) => one.name === name)!.bytes)
        expect(tensors.every((name) => name === layer || name.startsWith(`${layer}.`))).toBe(true)
        if (sizes.length > 1) expect(sizes.reduce((sum, size) => sum + size)).toBeLessThanOrEqual(64 * MIB)
        return tensors.length > 0
      }),
    )
  })

  it('take one tensor of each kind after a rehearsal, the same in whichever order they are given', () => {
    fc.assert(
      fc.property(candidates, fc.string(), (given: Candidate[], seed) => {
        const kindOf = (name: string) => name.replaceAll(/[0-9]+/g, '#')
        const kinds = new Set(given.filter(({ bytes }) => bytes > 0).map(({ name }) => kindOf(name)))
        const chosen = chooseKinds(given, seed)
        expect(chooseKinds([...given].reverse(), seed)).toEqual(chosen)
        expect(new Set(chosen?.tensors.map(kindOf))).toEqual(kinds)
        expect(chosen?.tensors.length ?? 0).toBe(kinds.size)
      }),
    )
  })

  it('come to every tensor in time', () => {
    const given = Array.from({ length: 12 }, (_, i) => ({ name: `model.layers.${i % 4}.part${i}`, bytes: 30 * MIB }))
    const seen = new Set<string>()
    for (let seed = 0; seed < 200; seed++) for (const name of chooseLayer(given, String(seed))!.tensors) seen.add(name)
    expect(seen.size).toBe(12)
  })

  it('are made in the second update and then in each so-many-th, or never', () => {
    const checked = (every: number) => Array.from({ length: 301 }, (_, i) => i).filter((n) => n > 0 && isChecked(n, every))
    expect(checked(100)).toEqual([2, 100, 200, 300])
    expect(checked(0)).toEqual([])
    expect([1, 2, 3, 100].filter((n) => isChecked(n, 100, true))).toEqual([1, 100])
    expect(checked(1)).toHaveLength(300)
  })

  it('are counted alike on ranks of which some have restarted, and from one for every recording', () => {
    const [known, other] = [nameRecordings(['a', 'b']), nameRecordings(['a', 'c'])]
    expect(countUpdate(known, [{ recordings: known, updates: 4 }, null])).toBe(5)
    expect(countUpdate(known, [null, { recordings: known, updates: 4 }])).toBe(5)
    expect(countUpdate(other, [{ recordings: known, updates: 4 }, null])).toBe(1)
    expect(nameRecordings(['a', 'b'])).not.toBe(nameRecordings(['b', 'a']))
  })
})
