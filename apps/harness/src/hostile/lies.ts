import { encodeMessage } from '@ckpt/worker-link/protocol'
import type { Random } from '@ckpt/testing'

const NUMBERS = [
  0,
  -1,
  1,
  0.5,
  7,
  8,
  255,
  4096,
  2 ** 31,
  2 ** 32,
  2 ** 52,
  Number.MAX_SAFE_INTEGER,
  2 ** 63,
  1e300,
  NaN,
  Infinity,
]
const TEXTS = [
  '',
  '0',
  '1',
  'x',
  '__proto__',
  'constructor',
  '../../etc/passwd',
  '/etc/passwd',
  '/proc/self/mem',
  '/proc/1/environ',
  '/dev/zero',
  'NaN',
  '18446744073709551616',
  '\0',
  '\u202e\ud800',
]

/** Returns a replacement for a value: one of a similar kind, or of any. */
function otherValue(random: Random, value: unknown, paths: readonly string[]): unknown {
  const near = random.between(0, 3) > 0
  if (near && typeof value === 'number') return random.pick([...NUMBERS, value + 1, value - 1, value * 2, -value])
  if (near && typeof value === 'string')
    return random.pick([...TEXTS, ...paths, `${value}x`, value.repeat(500), value.slice(1)])
  if (near && value instanceof Uint8Array) {
    return random.pick([value.subarray(1), Buffer.concat([value, value]), Buffer.alloc(0), Buffer.alloc(2 ** 20, 7)])
  }
  return random.pick<unknown>([
    null,
    true,
    BigInt(random.pick([1, 2 ** 33])) << 30n,
    random.pick(NUMBERS),
    random.pick([...TEXTS, ...paths]),
    Buffer.alloc(random.between(0, 70)),
    [],
    {},
    { toString: null },
    [[[[[]]]]],
    Array.from({ length: 1000 }, (_, i) => i),
    { kind: 'cuda', handle: Buffer.alloc(64, 1), offset: 0, bytes: 4096, deviceUuid: 'GPU-0' },
    { kind: 'file', path: random.pick(paths), offset: 0, bytes: 4096, device: '1', inode: '1', size: 4096 },
  ])
}

type Node = unknown[] | Record<string, unknown>

/** Returns every place of a message, as the object or array that holds it and its key. */
function placesOf(value: unknown, found: [Node, string][] = []): [Node, string][] {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return found
  for (const key of Object.keys(value)) {
    found.push([value as Node, key])
    placesOf((value as Record<string, unknown>)[key], found)
  }
  return found
}

function changePlace(
  random: Random,
  message: Record<string, unknown>,
  field: string | undefined,
  paths: readonly string[],
): void {
  // Optional fields of the schema that the honest message lacks are also added.
  if (field !== undefined && !(field in message)) {
    message[field] = otherValue(random, undefined, paths)
    return
  }
  const inside = placesOf(field === undefined ? message : { [field]: message[field] })
  // The first place is the field itself, in an object of ours.
  const [holder, key] = random.pick(inside)
  const own = field !== undefined && inside[0]?.[0] === holder ? message : holder
  const at = own as Record<string, unknown>
  const kind = random.between(0, 9)
  if (Array.isArray(own) && kind === 0) own.splice(Number(key), 1)
  else if (Array.isArray(own) && kind === 1)
    own.push(...Array.from({ length: random.pick([1, 2, 300]) }, () => own[Number(key)]))
  else if (Array.isArray(own) && kind === 2) own.push(otherValue(random, own[0], paths))
  else if (kind === 3 && !Array.isArray(own)) Reflect.deleteProperty(at, key)
  else at[key] = otherValue(random, at[key], paths)
}

function changeBytes(random: Random, frame: Buffer): Buffer {
  const bytes = Buffer.from(frame)
  const at = random.between(0, bytes.length - 1)
  switch (random.between(0, 4)) {
    case 0:
      bytes[at]! ^= 1 << random.between(0, 7)
      return bytes
    case 1:
      bytes[at] = random.between(0, 255)
      return bytes
    case 2:
      return bytes.subarray(0, at)
    case 3:
      return Buffer.concat([bytes.subarray(0, at), Buffer.from([random.between(0, 255)]), bytes.subarray(at)])
    default:
      // A length that promises far more than follows.
      return Buffer.concat([bytes.subarray(0, at), Buffer.from([0xdd, 0x7f, 0xff, 0xff, 0xff]), bytes.subarray(at)])
  }
}

/**
 * Returns frames that a hostile peer sends in place of `message`: the message with one to three places changed, one of them in
 * `field`, its bytes changed, a different message, several, or none.
 *
 * @param paths Files that it names in places that expect a path.
 */
export function lie(random: Random, message: object, field: string | undefined, paths: readonly string[]): Buffer[] {
  const own = structuredClone(message) as Record<string, unknown>
  const kind = random.between(0, 99)
  if (kind < 70) {
    changePlace(random, own, field, paths)
    for (let more = random.between(0, 2); more > 0; more--) changePlace(random, own, undefined, paths)
    return [packed(own)]
  }
  const honest = packed(own)
  if (kind < 85) return [changeBytes(random, honest)]
  if (kind < 88) return [Buffer.from(Array.from({ length: random.between(0, 200) }, () => random.between(0, 255)))]
  if (kind < 92) return Array.from({ length: random.pick([2, 3, 50]) }, () => honest)
  if (kind < 95) return [packed({ ...own, seq: random.pick([0, 1, 2, 3, 99]), epoch: random.pick([0, 1, 99]) }), honest]
  if (kind < 98)
    return [
      packed({
        type: 'error',
        seq: own['seq'] ?? 0,
        epoch: own['epoch'] ?? 0,
        error: random.pick([
          null,
          'x',
          {},
          { type: 'E', message: 'm', traceback: '' },
          { type: 'INTERNAL', message: 'x'.repeat(2 ** 18), traceback: 't', tensor: '\0' },
        ]),
      }),
    ]
  if (kind < 99) return [Buffer.alloc(2 ** 22, 0x91)]
  return []
}

/** Encodes anything in the way messages are packed. */
function packed(value: unknown): Buffer {
  return encodeMessage(value as Parameters<typeof encodeMessage>[0])
}
