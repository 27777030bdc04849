import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PythonCall, PythonDict, PythonGlobal, PythonTuple, pickle, type PythonValue } from './pickle.ts'

const local = fileURLToPath(new URL('../../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')

/** Reads pickles, one per line as hex, with Python's own unpickler, and writes the result as a tagged repr. */
const READER = `
import pickle, sys
def show(value):
    if isinstance(value, bool) or value is None: return repr(value)
    if isinstance(value, int): return "i" + str(value)
    if isinstance(value, str): return "s" + value.encode().hex()
    if isinstance(value, bytes): return "b" + value.hex()
    if isinstance(value, tuple): return "(" + ",".join(map(show, value)) + ")"
    if isinstance(value, list): return "[" + ",".join(map(show, value)) + "]"
    if isinstance(value, dict): return "{" + ",".join(show(k) + ":" + show(v) for k, v in value.items()) + "}"
    if isinstance(value, type): return "t" + value.__module__ + "." + value.__name__
    if isinstance(value, Exception): return "e" + type(value).__name__ + show(value.args)
    if isinstance(value, range): return "r" + show(tuple([value.start, value.stop, value.step]))
    raise TypeError(type(value))
for line in sys.stdin:
    print(show(pickle.loads(bytes.fromhex(line))))
`

/** The reader's output for a value that arrived unchanged. */
function show(value: PythonValue): string {
  if (value === null) return 'None'
  if (typeof value === 'boolean') return value ? 'True' : 'False'
  if (typeof value === 'number' || typeof value === 'bigint') return `i${value}`
  if (typeof value === 'string') return `s${Buffer.from(value).toString('hex')}`
  if (value instanceof Uint8Array) return `b${Buffer.from(value).toString('hex')}`
  if (value instanceof PythonTuple) return `(${value.items.map(show).join(',')})`
  if (value instanceof PythonDict) {
    const last = new Map(value.entries) // as in Python, the first place and the last value of a key count
    return `{${[...last].map(([key, item]) => `${show(key)}:${show(item)}`).join(',')}}`
  }
  if (value instanceof PythonGlobal) return `t${value.module}.${value.name}`
  if (value instanceof PythonCall) {
    const args = `(${value.args.map(show).join(',')})`
    return value.callable.name === 'range' ? `r${args}` : `e${value.callable.name}${args}`
  }
  return `[${value.map(show).join(',')}]`
}

const { value: anyValue } = fc.letrec<{ value: PythonValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.bigInt({ min: -(2n ** 200n), max: 2n ** 200n }),
    fc.string({ unit: 'grapheme' }),
    fc.string({ minLength: 250, maxLength: 300 }),
    fc.uint8Array({ maxLength: 300 }),
    fc.array(tie('value')),
    fc.array(tie('value'), { maxLength: 5 }).map((items) => new PythonTuple(items)),
    fc.array(fc.tuple(fc.string(), tie('value')), { maxLength: 5 }).map((entries) => new PythonDict(entries)),
    fc.constantFrom('int', 'ValueError', 'dict').map((name) => new PythonGlobal('builtins', name)),
    fc.string().map((text) => new PythonCall(new PythonGlobal('builtins', 'RuntimeError'), [text])),
    fc.integer({ min: 0, max: 99 }).map((end) => new PythonCall(new PythonGlobal('builtins', 'range'), [0, end, 1])),
  ),
}))

function read(pickles: readonly Buffer[]): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const child = execFile(python, ['-c', READER], { maxBuffer: 2 ** 28 }, (error, stdout) =>
      error ? reject(new Error(error.message)) : resolve(stdout.split('\n').slice(0, -1)),
    )
    child.stdin!.end(pickles.map((one) => `${one.toString('hex')}\n`).join(''))
  })
}

const hasPython = await read([]).then(
  () => true,
  () => false,
)

describe("pickles, as Python's own unpickler reads them", () => {
  it('arrive as they were, whatever they hold', async (context) => {
    if (!hasPython) context.skip(`no Python interpreter ${python}`)
    const values = fc.sample(anyValue, { numRuns: 2000, seed: 42 })
    const shown = await read(values.map(pickle))
    expect(shown).toHaveLength(values.length)
    for (const [index, value] of values.entries()) expect(shown[index]).toBe(show(value))
  })

  it('arrive at the borders of every integer form, and with more than 256 names to refer to', async (context) => {
    if (!hasPython) context.skip(`no Python interpreter ${python}`)
    const integers = [
      0,
      1,
      -1,
      127,
      128,
      -128,
      -129,
      2 ** 31 - 1,
      2 ** 31,
      -(2 ** 31),
      -(2 ** 31) - 1,
      2 ** 53 - 1,
      1 - 2 ** 53,
    ]
    const bigs = [0n, 255n, -256n, 2n ** 63n, -(2n ** 63n), 2n ** 64n - 1n, 2n ** 2031n, -(2n ** 2031n)]
    const keys = Array.from({ length: 600 }, (_, index) => [`key ${index % 300}`, index] as const)
    const twice = [new PythonDict(keys), new PythonDict(keys)]
    const values: PythonValue[] = [integers, bigs, twice]
    expect(await read(values.map(pickle))).toEqual(values.map(show))
  })
})

describe('pickling', () => {
  it('refuses what has no faithful form', () => {
    const invalid = expect.objectContaining({ code: 'INVALID_ARGUMENT' }) as Error
    for (const value of [1.5, Number.NaN, Infinity, 2 ** 53, '\ud800', 2n ** 2048n]) {
      expect(() => pickle(value)).toThrow(invalid)
    }
    let deep: PythonValue = []
    for (let depth = 0; depth < 150; depth++) deep = [deep]
    expect(() => pickle(deep)).toThrow(invalid)
  })
})
