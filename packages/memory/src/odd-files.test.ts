import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { isDeepStrictEqual } from 'node:util'
import { CkptError, tensorAt } from '@ckpt/contract'
import { createHost } from '@ckpt/transport'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CheckpointStore } from './checkpoint-store.ts'
import { oddFile, type OddFile } from './odd-files.fixture.ts'

/** A different seed generates different files. */
const SEED = Number(process.env['CKPT_ODD_SEED'] ?? 1)
const COUNT = Number(process.env['CKPT_ODD_FILES'] ?? 1200)

/** A Python that can import safetensors, or undefined. */
const python = [
  process.env['CKPT_PYTHON'],
  fileURLToPath(new URL('../../../.venv/bin/python', import.meta.url)),
  'python3',
].find((candidate) => {
  if (candidate === undefined || (candidate.includes('/') && !existsSync(candidate))) return false
  try {
    execFileSync(candidate, ['-c', 'import safetensors'], { stdio: 'ignore', timeout: 60_000 })
    return true
  } catch {
    return false
  }
})

/** Result of Python's package for each file: an error, or dtype, shape and digest of every tensor by name. */
const READ = `
import hashlib, json, sys
from safetensors import deserialize, safe_open
for n in range(int(sys.argv[2])):
    path = f"{sys.argv[1]}/{n}.safetensors"
    try:
        with safe_open(path, "np") as file:
            names = sorted(file.keys())
        found = {name: [view["dtype"], list(view["shape"]), hashlib.sha256(bytes(view["data"])).hexdigest()] for name, view in deserialize(open(path, "rb").read())}
        assert sorted(found) == names
        print(json.dumps({"tensors": found}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
`

type Read = { readonly tensors: Record<string, unknown> } | { readonly error: string }

/** Files that are refused although Python's package reads them, and why: see docs/files.md. */
const STRICTER: readonly RegExp[] = [
  /appears twice/, // it keeps the last of several, and says nothing of the others
  /over 2\^53 - 1|more than 2\^53 - 1/, // of what holds no byte: 2^53 and more elements in one dimension, and none in a different one
  /dimensions; at most 64 are supported/,
  /expected an object but found "\["/, // a tensor as a list of its three fields
  /expected a string but found "[{[]"/, // a dtype as an object
  /nested deeper than 128/,
  /contain no tensor/,
]

let directory: string
let files: OddFile[]
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-odd-'))
  mkdirSync(directory, { recursive: true })
  files = Array.from({ length: COUNT }, (_, n) => oddFile(SEED, n))
  for (const [n, { bytes }] of files.entries()) writeFileSync(pathOf(n), bytes)
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const pathOf = (n: number) => join(directory, `${n}.safetensors`)

/** Result of a registration. */
async function register(
  store: CheckpointStore,
  n: number,
): Promise<{ tensors: Record<string, unknown> } | { error: CkptError }> {
  const name = String(n)
  try {
    await store.register(name, { files: [pathOf(n)] })
  } catch (error) {
    if (CkptError.is(error)) return { error }
    throw error
  }
  using lease = store.lease(name)
  const tensors = Object.create(null) as Record<string, unknown>
  for (let i = 0; i < lease.table.count; i++) {
    const tensor = tensorAt(lease.table, i)
    const bytes = lease.segments[tensor.segment]!.view(tensor.offset, tensor.bytes)
    tensors[tensor.name] = [tensor.dtype, [...tensor.shape], createHash('sha256').update(bytes).digest('hex')]
  }
  return { tensors }
}

describe('odd files', () => {
  it(
    `are read as Python's safetensors reads them, or refused with their name (seed ${SEED})`,
    { timeout: 300_000 },
    async ({ skip }) => {
      if (python === undefined) skip('no Python with safetensors found (set CKPT_PYTHON)')
      const output = execFileSync(python!, ['-c', READ, directory, String(COUNT)], { timeout: 200_000, maxBuffer: 1 << 28 })
      const theirs = output.toString().trimEnd().split('\n')
      expect(theirs).toHaveLength(COUNT)
      // Files that were written just before are checked twice.
      await sleep(50)
      const store = new CheckpointStore(createHost(), { lock: false })
      const faults: string[] = []
      const counts = { read: 0, refused: 0, stricter: 0 }
      for (const [n, { what, bytes }] of files.entries()) {
        const expected = JSON.parse(theirs[n]!) as Read
        const found = await register(store, n)
        const wrong = (why: string) => {
          faults.push(`file ${n}, ${what}: ${why}: ${bytes.subarray(0, 400).toString('latin1')}`)
        }
        if ('error' in found) {
          const { code, message, fields } = found.error
          if (code !== 'CHECKPOINT_MALFORMED' && code !== 'UNSUPPORTED') wrong(`${code}: ${message}`)
          if (fields.file !== pathOf(n) || !message.includes(pathOf(n))) wrong(`${code} does not name the file: ${message}`)
          if ('error' in expected) counts.refused++
          else {
            counts.stricter++
            if (!STRICTER.some((reason) => reason.test(message))) wrong(`only we refuse it: ${message}`)
          }
          continue
        }
        counts.read++
        store.unregister(String(n))
        if ('error' in expected) wrong(`only we read it: ${expected.error}`)
        else if (!isDeepStrictEqual(new Map(Object.entries(found.tensors)), new Map(Object.entries(expected.tensors)))) {
          wrong(`read differently: ${JSON.stringify([found.tensors, expected.tensors])}`)
        }
      }
      expect(faults).toEqual([])
      await store.close()
      // The grammar covers all three.
      expect(Math.min(counts.read, counts.refused, counts.stricter), JSON.stringify(counts)).toBeGreaterThan(COUNT / 100)
    },
  )
})
