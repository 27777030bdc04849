import { CkptError, type HostMemory } from '@ckpt/contract'
import type { NativeMemory } from '@ckpt/native-host'
import { nativeSync } from '../addon.ts'

const handles = new WeakMap<HostMemory, NativeMemory>()

/** A {@link HostMemory} over the addon's memory. */
export class NativeHostMemory implements HostMemory {
  readonly #memory: NativeMemory
  readonly bytes: number
  readonly kind: HostMemory['kind']
  readonly name: string | undefined
  readonly identity: HostMemory['identity']

  constructor(memory: NativeMemory) {
    this.#memory = memory
    this.bytes = memory.bytes
    this.kind = memory.kind
    this.name = memory.name
    this.identity = identityOf(memory)
    handles.set(this, memory)
  }

  get address(): number {
    return this.#memory.address
  }

  get locked(): boolean {
    return this.#memory.locked
  }

  get lockError(): string | undefined {
    return this.#memory.lockError
  }

  assertIntact(): void {
    nativeSync(() => this.#memory.checkIntact())
  }

  view(offset: number, length: number): Buffer {
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) {
      throw new RangeError(`bytes ${offset} + ${length} are outside a memory of ${this.bytes} bytes`)
    }
    const [buffer, start] = nativeSync(() => this.#memory.window(offset, length))
    return Buffer.from(buffer, start, length)
  }

  unlink(): void {
    nativeSync(() => this.#memory.unlink())
  }

  close(): void {
    nativeSync(() => this.#memory.close())
  }
}

/** The times of memory that is written to are meaningless. */
function identityOf({ identity, kind }: NativeMemory): HostMemory['identity'] {
  if (identity === undefined || kind === 'file') return identity
  const { modified: _, ...rest } = identity
  return rest
}

/**
 * Returns the addon's memory behind a {@link HostMemory}. @throws CkptError `INVALID_ARGUMENT` if a different host created it.
 */
export function nativeMemory(memory: HostMemory): NativeMemory {
  const handle = handles.get(memory)
  if (handle === undefined) {
    throw new CkptError('INVALID_ARGUMENT', 'the memory was not made by the native host', { fields: { field: 'memory' } })
  }
  return handle
}
