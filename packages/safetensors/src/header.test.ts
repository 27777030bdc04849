import { CkptError, DTYPE_BITS, DTYPES, type DType } from '@ckpt/contract'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseHeader } from './header.ts'
import { headerFor, type TensorSpec } from './write.ts'

/** A file of the given header text with `dataBytes` bytes of data. */
function parse(header: string | Buffer, dataBytes = 0, length?: bigint) {
  const json = Buffer.from(header)
  const bytes = Buffer.alloc(8 + json.length)
  bytes.writeBigUInt64LE(length ?? BigInt(json.length))
  json.copy(bytes, 8)
  return parseHeader(bytes, { file: 'a.safetensors', fileBytes: bytes.length + dataBytes })
}

function failure(run: () => unknown): CkptError {
  try {
    run()
  } catch (error) {
    if (CkptError.is(error)) return error
    throw error
  }
  throw new Error('nothing was thrown')
}

const tensor = (name: string, shape: string, offsets: string, dtype = '"F32"') =>
  `${JSON.stringify(name)}:{"dtype":${dtype},"shape":${shape},"data_offsets":${offsets}}`

describe('parseHeader', () => {
  it('reads tensors, metadata, scalars and zero-length tensors in file order', () => {
    const header = parse(
      `{"__metadata__":{"format":"pt","__proto__":"x"},${tensor('b', '[2,3]', '[4,28]')}, ${tensor('s', '[]', '[0,4]')},` +
        `${tensor('z', '[7,0]', '[28,28]')},"é\\n\\u00e9":{"data_offsets":[28,29],"shape":[1],"dtype":"F8_E4M3","extra":[1.5e3,{"a":null}]}}   `,
      29,
    )
    expect(header.tensors).toEqual([
      { name: 's', dtype: 'F32', shape: [], begin: 0, end: 4 },
      { name: 'b', dtype: 'F32', shape: [2, 3], begin: 4, end: 28 },
      { name: 'z', dtype: 'F32', shape: [7, 0], begin: 28, end: 28 },
      { name: 'é\né', dtype: 'F8_E4M3', shape: [1], begin: 28, end: 29 },
    ])
    expect(Object.entries(header.metadata)).toEqual([
      ['format', 'pt'],
      ['__proto__', 'x'],
    ])
    expect(({} as Record<string, unknown>)['x']).toBeUndefined()
    expect(parse('{}').tensors).toEqual([])
  })

  it('knows every dtype', () => {
    for (const dtype of DTYPES) {
      const bytes = DTYPE_BITS[dtype]
      expect(parse(`{${tensor('t', '[8]', `[0,${bytes}]`, `"${dtype}"`)}}`, bytes).tensors[0]?.dtype).toBe(dtype)
    }
  })

  const one = tensor('t', '[1]', '[0,4]')
  const cases: [string, string | Buffer, number, { field: string; tensor?: string }, RegExp][] = [
    [
      'overlap',
      `{${tensor('a', '[2]', '[0,8]')},${tensor('b', '[2]', '[4,12]')}}`,
      12,
      { field: 'data_offsets', tensor: 'b' },
      /overlaps tensor "a"/,
    ],
    [
      'gap',
      `{${tensor('a', '[1]', '[0,4]')},${tensor('b', '[1]', '[8,12]')}}`,
      12,
      { field: 'data_offsets', tensor: 'b' },
      /gap: bytes 4 to 8/,
    ],
    ['gap at the start', `{${tensor('a', '[1]', '[4,8]')}}`, 8, { field: 'data_offsets', tensor: 'a' }, /gap: bytes 0 to 4/],
    ['past the end', `{${tensor('a', '[2]', '[0,8]')}}`, 7, { field: 'data_offsets', tensor: 'a' }, /past the end/],
    ['trailing bytes', `{${one}}`, 5, { field: 'data_offsets' }, /1 trailing bytes/],
    ['data without tensors', '{}', 1, { field: 'data_offsets' }, /trailing/],
    ['duplicate name', `{${one},${tensor('t', '[1]', '[4,8]')}}`, 8, { field: 'name', tensor: 't' }, /twice/],
    [
      'duplicate escaped name',
      `{${one},"\\u0074":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`,
      8,
      { field: 'name', tensor: 't' },
      /twice/,
    ],
    [
      'duplicate dtype',
      '{"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
      4,
      { field: 'dtype', tensor: 't' },
      /twice/,
    ],
    [
      'duplicate shape',
      '{"t":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}',
      4,
      { field: 'shape', tensor: 't' },
      /twice/,
    ],
    [
      'duplicate offsets',
      '{"t":{"data_offsets":[0,4],"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
      4,
      { field: 'data_offsets', tensor: 't' },
      /twice/,
    ],
    ['duplicate metadata', '{"__metadata__":{},"__metadata__":{}}', 0, { field: 'header' }, /twice/],
    ['duplicate metadata key', '{"__metadata__":{"a":"1","a":"2"}}', 0, { field: '__metadata__' }, /twice/],
    ['metadata not a string', '{"__metadata__":{"a":1}}', 0, { field: '__metadata__' }, /expected a string/],
    ['metadata not a map', '{"__metadata__":[]}', 0, { field: '__metadata__' }, /expected an object/],
    ['bad JSON', `{${one}`, 4, { field: 'header' }, /bad JSON/],
    ['comma at the end', `{${one},}`, 4, { field: 'header' }, /expected a key/],
    ['text after the object', `{${one}}x`, 4, { field: 'header' }, /expected the end/],
    ['NUL after the object', `{${one}}\0`, 4, { field: 'header' }, /expected the end/],
    ['not an object', '[1]', 0, { field: 'header' }, /does not start with/],
    ['tensor not an object', '{"t":3}', 0, { field: 'header', tensor: 't' }, /expected an object/],
    ['unknown dtype', `{${tensor('t', '[1]', '[0,4]', '"F33"')}}`, 4, { field: 'dtype', tensor: 't' }, /unknown dtype "F33"/],
    [
      'dtype of Object.prototype',
      `{${tensor('t', '[1]', '[0,4]', '"toString"')}}`,
      4,
      { field: 'dtype', tensor: 't' },
      /unknown dtype/,
    ],
    ['dtype not a string', `{${tensor('t', '[1]', '[0,4]', '4')}}`, 4, { field: 'dtype', tensor: 't' }, /expected a string/],
    ['dtype missing', '{"t":{"shape":[1],"data_offsets":[0,4]}}', 4, { field: 'dtype', tensor: 't' }, /missing/],
    ['shape missing', '{"t":{"dtype":"F32","data_offsets":[0,4]}}', 4, { field: 'shape', tensor: 't' }, /missing/],
    ['offsets missing', '{"t":{"dtype":"F32","shape":[1]}}', 4, { field: 'data_offsets', tensor: 't' }, /missing/],
    ['negative dimension', `{${tensor('t', '[-1]', '[0,4]')}}`, 4, { field: 'shape', tensor: 't' }, /negative/],
    ['fractional dimension', `{${tensor('t', '[1.5]', '[0,4]')}}`, 4, { field: 'shape', tensor: 't' }, /whole number/],
    ['exponent', `{${tensor('t', '[1e0]', '[0,4]')}}`, 4, { field: 'shape', tensor: 't' }, /whole number/],
    ['leading zero', `{${tensor('t', '[01]', '[0,4]')}}`, 4, { field: 'shape', tensor: 't' }, /leading zero/],
    [
      'dimension over 2^53',
      `{${tensor('t', '[9007199254740993]', '[0,4]')}}`,
      4,
      { field: 'shape', tensor: 't' },
      /9007199254740993, which is over 2\^53/,
    ],
    [
      'offset of 2^53',
      `{${tensor('t', '[1]', '[0,9007199254740992]')}}`,
      4,
      { field: 'data_offsets', tensor: 't' },
      /over 2\^53/,
    ],
    [
      'offset of 400 digits',
      `{${tensor('t', '[1]', `[0,${'9'.repeat(400)}]`)}}`,
      4,
      { field: 'data_offsets', tensor: 't' },
      /over 2\^53/,
    ],
    ['negative offset', `{${tensor('t', '[1]', '[-4,0]')}}`, 4, { field: 'data_offsets', tensor: 't' }, /negative/],
    ['fractional offset', `{${tensor('t', '[1]', '[0,4.0]')}}`, 4, { field: 'data_offsets', tensor: 't' }, /whole number/],
    ['one offset', `{${tensor('t', '[1]', '[4]')}}`, 4, { field: 'data_offsets', tensor: 't' }, /1 numbers instead of 2/],
    [
      'three offsets',
      `{${tensor('t', '[1]', '[0,2,4]')}}`,
      4,
      { field: 'data_offsets', tensor: 't' },
      /3 numbers instead of 2/,
    ],
    ['offsets backwards', `{${tensor('t', '[1]', '[4,0]')}}`, 4, { field: 'data_offsets', tensor: 't' }, /before they begin/],
    [
      'shape overflow',
      `{${tensor('t', '[4294967296,4294967296,4294967296]', '[0,0]')}}`,
      0,
      { field: 'shape', tensor: 't' },
      /more than 2\^53/,
    ],
    [
      'shape overflow before a zero',
      `{${tensor('t', '[4294967296,4294967296,0]', '[0,0]')}}`,
      0,
      { field: 'shape', tensor: 't' },
      /more than 2\^53/,
    ],
    [
      'byte overflow',
      `{${tensor('t', '[9007199254740991]', '[0,0]')}}`,
      0,
      { field: 'shape', tensor: 't' },
      /over 2\^53 - 1 bytes/,
    ],
    [
      'wrong size',
      `{${tensor('t', '[2]', '[0,4]')}}`,
      4,
      { field: 'data_offsets', tensor: 't' },
      /hold 4 bytes, but F32 of shape \[2\] needs 8/,
    ],
    [
      'half a byte',
      `{${tensor('t', '[3]', '[0,2]', '"F4"')}}`,
      2,
      { field: 'shape', tensor: 't' },
      /not a whole number of bytes/,
    ],
    [
      'six bits',
      `{${tensor('t', '[2]', '[0,2]', '"F6_E2M3"')}}`,
      2,
      { field: 'shape', tensor: 't' },
      /not a whole number of bytes/,
    ],
    [
      'invalid UTF-8',
      Buffer.concat([Buffer.from('{"'), Buffer.from([0xc3, 0x28]), Buffer.from('":{}}')]),
      0,
      { field: 'header' },
      /UTF-8/,
    ],
    ['lone surrogate', '{"\\ud800":{}}', 0, { field: 'header' }, /surrogate/],
    ['control character', '{"a\nb":{}}', 0, { field: 'header' }, /control character/],
    ['bad escape', '{"a\\x":{}}', 0, { field: 'header' }, /bad escape/],
    ['string without end', '{"abc', 0, { field: 'header' }, /does not end/],
    ['string ending in a backslash', '{"abc\\', 0, { field: 'header' }, /does not end/],
    ['nested too deep', `{"t":{"x":${'['.repeat(100_000)}`, 0, { field: 'x', tensor: 't' }, /nested deeper/],
  ]
  it.each(cases)('rejects %s', (_, header, dataBytes, fields, message) => {
    const error = failure(() => parse(header, dataBytes))
    expect(error.code).toBe('CHECKPOINT_MALFORMED')
    expect(error.fields).toEqual({ file: 'a.safetensors', ...fields })
    expect(error.message).toMatch(message)
    expect(error.message).toContain('a.safetensors')
    expect(error.message.length).toBeLessThan(500)
  })

  it('rejects lengths the file or the format has no room for', () => {
    const empty = failure(() => parseHeader(Buffer.alloc(0), { file: 'f', fileBytes: 0 }))
    expect(empty.message).toMatch(/empty/)
    const short = failure(() => parseHeader(Buffer.alloc(7), { file: 'f', fileBytes: 7 }))
    expect(short.message).toMatch(/truncated: 7 bytes/)
    expect(failure(() => parse('{}', 0, 3n)).message).toMatch(/past the end of the file of 10 bytes/)
    expect(failure(() => parse('{}', 2 ** 40, 100_000_001n)).message).toMatch(/limit of 100000000/)
    expect(failure(() => parse('{}', 0, 2n ** 64n - 1n)).message).toMatch(/limit/)
    expect(failure(() => parse('{}', 0, 1n)).message).toMatch(/too short/)
    const cut = failure(() => parseHeader(Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 0x7b]), { file: 'f', fileBytes: 100 }))
    expect(cut.message).toMatch(/truncated/)
    for (const error of [empty, short, cut]) expect(error.code).toBe('CHECKPOINT_MALFORMED')
    expect(empty.fields).toEqual({ file: 'f', field: 'length' })
  })

  it('agrees with JSON.parse on what is JSON', () => {
    const accepts = (read: () => unknown) => {
      try {
        read()
        return true
      } catch {
        return false
      }
    }
    const mutated = fc
      .tuple(
        fc.json({ maxDepth: 4 }),
        fc.nat(),
        fc.constantFrom('', '"', '\\', ',', ':', '0', '-', '.', 'e', '}', ']', ' ', 'u', '\t'),
        fc.boolean(),
      )
      .map(([json, at, insert, drop]) => {
        const index = at % (json.length + 1)
        return json.slice(0, index) + insert + json.slice(index + (drop ? 1 : 0))
      })
    fc.assert(
      fc.property(fc.oneof(fc.json({ maxDepth: 4 }), mutated), (value) => {
        fc.pre(Buffer.from(value).toString() === value && !/\\u[dD]/.test(value))
        const wrapped = `{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":${value}}}`
        // JSON.parse accepts duplicate keys and numbers out of range, which a header must not contain.
        if (accepts(() => parse(wrapped))) JSON.parse(wrapped)
        else
          expect(
            accepts(() => JSON.parse(wrapped)) && !/appears twice|out of range/.test(failure(() => parse(wrapped)).message),
          ).toBe(false)
      }),
      { numRuns: 3000 },
    )
  })

  it('parses what headerFor lays out, whatever the tensors', () => {
    fc.assert(
      fc.property(
        arbitraryTensors,
        fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' })),
        (tensors, metadata) => {
          const layout = headerFor(tensors, { metadata })
          expect(layout.header.length % 8).toBe(0)
          const header = parseHeader(layout.header, { file: 'f', fileBytes: layout.fileBytes })
          expect(header.metadata).toEqual(metadata)
          expect(header.dataStart).toBe(layout.header.length)
          expect(header.tensors).toEqual(
            layout.tensors.map(({ name, dtype, shape, begin, end }) => ({ name, dtype, shape, begin, end })),
          )
          expect(new Set(header.tensors.map((t) => t.name))).toEqual(new Set(tensors.map((t) => t.name)))
        },
      ),
    )
  })

  it('throws nothing but CHECKPOINT_MALFORMED on flipped bytes and cuts', () => {
    const layout = headerFor(
      [
        { name: 'model.layers.0.weight', dtype: 'BF16', shape: [4, 8] },
        { name: 'näme\n', dtype: 'F4', shape: [2] },
        { name: 'scalar', dtype: 'I64', shape: [] },
        { name: 'empty', dtype: 'F32', shape: [0, 3] },
      ],
      { metadata: { format: 'pt' } },
    )
    let rejected = 0
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat({ max: layout.header.length - 1 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 4 }),
        fc.option(fc.nat({ max: layout.fileBytes })),
        (flips, cut) => {
          const bytes = Buffer.from(layout.header)
          for (const [at, value] of flips) bytes[at] = value
          const fileBytes = cut ?? layout.fileBytes
          try {
            parseHeader(bytes.subarray(0, fileBytes), { file: 'f', fileBytes })
          } catch (error) {
            rejected++
            expect(CkptError.is(error, 'CHECKPOINT_MALFORMED'), String(error)).toBe(true)
          }
        },
      ),
      { numRuns: 5000 },
    )
    expect(rejected).toBeGreaterThan(1000)
  })

  it('parses 139,000 tensors in well under a second', () => {
    const specs: TensorSpec[] = []
    for (let i = 0; i < 139_000; i++) {
      specs.push({ name: `model.layers.${i % 61}.mlp.experts.${i}.down_proj.weight_scale_inv`, dtype: 'F32', shape: [16, 56] })
    }
    const layout = headerFor(specs)
    const start = process.cpuUsage()
    const started = performance.now()
    const header = parseHeader(layout.header, { file: 'f', fileBytes: layout.fileBytes })
    const elapsed = performance.now() - started
    const { user } = process.cpuUsage(start)
    expect(header.tensors.length).toBe(139_000)
    // Processor time: independent of other work on the machine.
    expect(user / 1000).toBeLessThan(2500)
    console.log(`139,000 tensors, header of ${(layout.header.length / 1e6).toFixed(1)} MB: ${elapsed.toFixed(0)} ms`)
  })
})

const arbitraryTensors = fc.uniqueArray(fc.string({ unit: 'grapheme', maxLength: 12 }), { maxLength: 20 }).chain((names) =>
  fc.tuple(
    ...names
      .filter((name) => name !== '__metadata__')
      .map((name) =>
        fc.record({
          name: fc.constant(name),
          dtype: fc.constantFrom<DType>(...DTYPES),
          // Four elements are a whole number of bytes in every dtype.
          shape: fc.array(fc.nat({ max: 5 }), { maxLength: 3 }).map((shape) => [...shape, 4]),
        }),
      ),
  ),
)
