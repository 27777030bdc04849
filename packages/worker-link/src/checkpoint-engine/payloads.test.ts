import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { DTYPES, tensorBytes, type RingTensor } from '@ckpt/contract'
import { describe, expect, it, type TestContext } from 'vitest'
import { abortPayload, bucketPayload, donePayload, ringPayload } from './payloads.ts'
import { CounterFile } from './reference-counter.ts'

const local = fileURLToPath(new URL('../../../../.venv/bin/python', import.meta.url))
const python = process.env['CKPT_PYTHON'] ?? (existsSync(local) ? local : 'python3')
const run = promisify(execFile)

const missing = await run(python, ['-c', 'import torch']).then(
  () => undefined,
  (error: unknown) => String((error as { stderr?: string }).stderr ?? error).trim(),
)

/** Output of `script`, as JSON; `p` are the payloads, unpickled by Python. */
async function inPython(context: TestContext, script: string, ...payloads: readonly Buffer[]): Promise<unknown> {
  if (missing !== undefined) context.skip(`no torch: ${missing.split('\n').at(-1)}`)
  const head = 'import json, pickle, sys, torch\np = [pickle.loads(bytes.fromhex(a)) for a in sys.argv[1:]]\n'
  const { stdout } = await run(python, ['-c', head + script, ...payloads.map((payload) => payload.toString('hex'))])
  return JSON.parse(stdout.trim().split('\n').at(-1)!)
}

const RING = {
  kind: 'cuda',
  handle: Buffer.from(Array.from({ length: 64 }, (_, index) => index)),
  offset: 512,
  bytes: 3 * 2 ** 32,
  deviceUuid: 'GPU-1',
} as const

describe('what is sent to a stock worker, as torch reads it', () => {
  it('is a tensor over the ring in the form of reduce_tensor', async (context) => {
    const script = `
from torch.multiprocessing.reductions import rebuild_cuda_tensor
import inspect
(f, a) = p[0]
names = list(inspect.signature(rebuild_cuda_tensor).parameters)
byname = dict(zip(names, a, strict=True))
assert f is rebuild_cuda_tensor and isinstance(p[0], tuple) and isinstance(a, tuple)
assert a[6] == byname["storage_device"] and type(a[6]) is int
assert byname["tensor_cls"] is torch.Tensor and byname["storage_cls"] is torch.storage.TypedStorage
assert byname["dtype"] is torch.uint8 and byname["requires_grad"] is False and byname["event_sync_required"] is False
print(json.dumps([type(byname["tensor_size"]).__name__, *byname["tensor_size"], byname["tensor_stride"], byname["tensor_offset"],
  byname["storage_handle"].hex(), byname["storage_size_bytes"], byname["storage_offset_bytes"],
  byname["ref_counter_handle"].decode(), byname["ref_counter_offset"], len(byname["event_handle"])]))
`
    const payload = ringPayload(RING, { name: '/counter', index: 3 })
    const handle = RING.handle.toString('hex')
    expect(await inPython(context, script, payload)).toEqual([
      ...['Size', RING.bytes, [1], 0, handle, RING.bytes, RING.offset, '/counter', 3, 64],
    ])
  })

  it('is every dtype that torch knows, others as packed bytes, each of the size that it takes', async (context) => {
    const tensors: RingTensor[] = DTYPES.flatMap((dtype, index) =>
      [[3, 8], [8], []].flatMap((shape) => {
        if (shape.length === 0 && dtype.startsWith('F') && !/8|16|32|64/.test(dtype)) return []
        const bytes = tensorBytes(dtype, shape)
        return [{ name: `${dtype} ${shape.join('x')}`, dtype, shape, offset: index * 4096, bytes }]
      }),
    )
    const script = `
for item in p[0]:
    assert list(item) == ["name", "dtype", "shape", "offset"] and type(item["dtype"]) is torch.dtype
    assert type(item["shape"]) is torch.Size and type(item["offset"]) is int
print(json.dumps([[i["name"], str(i["dtype"]), i["dtype"].itemsize * i["shape"].numel(), i["offset"]] for i in p[0]]))
`
    const read = (await inPython(context, script, bucketPayload(tensors))) as [string, string, number, number][]
    expect(read.map(([name, , bytes, offset]) => ({ name, bytes, offset }))).toEqual(
      tensors.map(({ name, bytes, offset }) => ({ name, bytes, offset })),
    )
    const types = Object.fromEntries(read.map(([name, type]) => [name, type]))
    expect(types).toMatchObject({ 'BF16 8': 'torch.bfloat16', 'F8_E4M3 8': 'torch.float8_e4m3fn', 'F4 8': 'torch.uint8' })
  })

  it('is None at an end of a phase, and an exception at an abort', async (context) => {
    const script = 'print(json.dumps([p[0], type(p[1]).__name__, *p[1].args]))'
    expect(await inPython(context, script, donePayload(), abortPayload('rank 1: “no” \ud800'))).toEqual([
      null,
      'RuntimeError',
      'rank 1: “no” \ufffd',
    ])
  })

  it('never is a ring that is not in CUDA memory', () => {
    expect(() => ringPayload({ kind: 'shm', name: 'x', offset: 0, bytes: 1 }, { name: '/x', index: 0 })).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED' }) as Error,
    )
  })
})

describe('a reference counter', () => {
  it("is a file that torch's own allocator takes for one and does not remove", async (context) => {
    const counter = new CounterFile()
    try {
      expect(existsSync(`/dev/shm${counter.name}`)).toBe(true)
      // torch uses a RefcountedMapAllocator without CREATE for it; on the CPU the same class opens shared file names.
      const script = `
import torch.multiprocessing
torch.multiprocessing.set_sharing_strategy("file_system")
manager, _, _ = torch.zeros(1).untyped_storage()._share_filename_cpu_()
name = json.loads('"${counter.name}"').encode()
storage = torch.UntypedStorage._new_shared_filename_cpu(manager, name, 8 * 10000)
counters = torch.tensor([], dtype=torch.int64).set_(storage)
before = counters[:2].tolist()
counters[0] -= 1
del storage, counters
# Here, since torch's manager of shared names removes what was opened through it at the end.
with open("/dev/shm" + name.decode(), "rb") as file: after = list(__import__("struct").unpack_from("<i60xq", file.read()))
print(json.dumps([before, after]))
`
      expect(await inPython(context, script)).toEqual([
        [1, 0],
        [1, 0],
      ])
    } finally {
      counter.close()
    }
    expect(existsSync(`/dev/shm${counter.name}`)).toBe(false)
  })
})
