import { CkptError } from '@ckpt/contract'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { tensorSpecs, type NamedTensorInput } from './source.ts'
import { describedTensors } from './trainer/description.ts'

/** Values that JSON or a caller may pass where something else is expected. */
function nested(depth: number): unknown {
  let value: unknown = []
  for (let i = 0; i < depth; i++) value = [value]
  return value
}
const hostile: readonly unknown[] = [
  null,
  undefined,
  true,
  -1,
  1.5,
  2 ** 60,
  NaN,
  10n,
  '',
  'F32',
  '__proto__',
  'constructor',
  'toString',
  'x'.repeat(10_000),
  [],
  [null],
  [{ toString: null }],
  nested(5000),
  new Array(100_000).fill(0),
  {},
  { toString: null },
  { toString: null, valueOf: null },
  { toJSON: 1, length: 3 },
  JSON.parse('{"__proto__": {"kind": "shared", "bytes": 64, "name": "x"}}'),
  JSON.parse('{"constructor": {"prototype": {}}}'),
  Object.create(null),
  Symbol('s'),
  () => 1,
]
const any = fc.oneof(fc.constantFrom(...hostile), fc.jsonValue())

/** What failed with an untyped error; undefined if everything is correct. */
function untyped(work: () => unknown, code: string): unknown {
  try {
    work()
    return undefined
  } catch (error) {
    return CkptError.is(error) && [code, 'INVALID_ARGUMENT'].includes(error.code) && error.message.length < 2000
      ? undefined
      : error
  }
}

it('a trainer’s description is refused by field, whatever stands where', () => {
  const memory = { kind: 'shared', name: 'x', bytes: 64 }
  const row = ['w', 'F32', [2, 2], 0, 0, 16]
  expect(describedTensors('p', { type: 'tensors', memories: [memory], tensors: [row] })).toHaveLength(1)
  const one = (memories: unknown, tensors: unknown) =>
    untyped(() => describedTensors('p', { type: 'tensors', memories, tensors }), 'CHECKPOINT_MALFORMED')
  for (const value of hostile) {
    expect(one(value, [row])).toBeUndefined()
    expect(one([memory], value)).toBeUndefined()
    expect(one([value], [row])).toBeUndefined()
    expect(one([memory], [value])).toBeUndefined()
    for (const key of ['kind', 'name', 'bytes']) expect(one([{ ...memory, [key]: value }], [row])).toBeUndefined()
    for (const start of [row, row.with(0, 'x'.repeat(10_000))]) {
      for (let at = 0; at < row.length; at++) {
        expect(one([memory], [start.with(at, value as string)]), String(at)).toBeUndefined()
      }
    }
  }
  fc.assert(
    fc.property(
      fc.array(any, { maxLength: 3 }),
      fc.array(fc.oneof(any, fc.array(any, { minLength: 6, maxLength: 6 })), { maxLength: 4 }),
      (memories, tensors) => {
        expect(one([memory, ...memories], tensors)).toBeUndefined()
      },
    ),
  )
})

it('named tensors are refused by field, whatever a caller gives', () => {
  const input = { name: 'w', dtype: 'U8', shape: [2], data: new Uint8Array(2) }
  const one = (tensor: unknown) => untyped(() => tensorSpecs([tensor as NamedTensorInput]), 'INVALID_ARGUMENT')
  expect(one(input)).toBeUndefined()
  for (const value of hostile) {
    for (const name of ['w', 'x'.repeat(10_000)]) {
      for (const key of ['name', 'dtype', 'shape']) expect(one({ ...input, name, [key]: value }), key).toBeUndefined()
    }
  }
})
