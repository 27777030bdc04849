import {
  type DType,
  type Manifest,
  type RankMetas,
  type TensorMeta,
  nameHashes,
  tensorBytes,
  tensorTable,
} from '@ckpt/contract'
import fc from 'fast-check'

/** A tensor of a generated rank, before it has a place: `gap` bytes precede it, `jump` starts a new segment. */
export interface LooseTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly gap: number
  readonly jump: boolean
}

export function manifestOf(
  ranks: readonly (readonly LooseTensor[])[],
  options: { hashed?: boolean; shuffle?: boolean } = {},
): Manifest {
  return {
    checkpoint: 'test',
    digest: 'test',
    ranks: ranks.map((tensors, rank): RankMetas => {
      const sizes = [0]
      const placed = tensors.map(({ name, dtype, shape, gap, jump }): TensorMeta => {
        if (jump) sizes.push(0)
        const segment = sizes.length - 1
        const bytes = tensorBytes(dtype, shape)
        const offset = sizes[segment]! + gap
        sizes[segment] = offset + bytes
        return { name, dtype, shape, bytes, segment, offset }
      })
      if (options.shuffle === true) placed.reverse()
      const table = tensorTable(placed)
      return {
        rank,
        host: 'host',
        deviceUuid: `HOST-${rank}`,
        segments: sizes.map((bytes) => ({ bytes, kind: 'anonymous' as const })),
        tensors: options.hashed === true ? { ...table, nameHashes: nameHashes(table.names) } : table,
        digest: String(rank),
      }
    }),
  }
}

const loose = (name: string): fc.Arbitrary<LooseTensor> =>
  fc.record({
    name: fc.constant(name),
    dtype: fc.constantFrom<DType>('F32', 'BF16', 'F8_E4M3', 'U8'),
    shape: fc.oneof(
      { weight: 8, arbitrary: fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 2 }) },
      { weight: 1, arbitrary: fc.constant([0, 3]) },
      { weight: 1, arbitrary: fc.constant([64, 64]) },
    ),
    gap: fc.oneof({ weight: 6, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.integer({ min: 0, max: 1000 }) }),
    jump: fc.integer({ min: 0, max: 9 }).map((value) => value === 0),
  })

/** Manifests of 1 … 5 ranks with 0 … 30 tensors each, some of them held by several ranks. */
export const manifests: fc.Arbitrary<Manifest> = fc
  .tuple(
    fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 5 }),
    fc.integer({ min: 0, max: 12 }),
    fc.boolean(),
    fc.boolean(),
  )
  .chain(([counts, shared, hashed, shuffle]) =>
    fc
      .tuple(
        fc.tuple(
          ...counts.map((count, rank) => fc.tuple(...Array.from({ length: count }, (_, index) => loose(`r${rank}.t${index}`)))),
        ),
        fc.tuple(
          ...Array.from({ length: shared }, (_, index) =>
            fc.tuple(
              loose(`shared.${index}`),
              fc.uniqueArray(fc.integer({ min: 0, max: counts.length - 1 }), { minLength: 1 }),
            ),
          ),
        ),
      )
      .map(([own, replicated]) => {
        const ranks = own.map((tensors): LooseTensor[] => [...tensors])
        for (const [tensor, holders] of replicated) for (const holder of holders) ranks[holder]!.push(tensor)
        return manifestOf(ranks, { hashed, shuffle })
      }),
  )
