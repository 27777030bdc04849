/** Identity of a memory for other processes; numbers that may have 64 bits are decimal text. */
export interface NativeIdentity {
  readonly device: string
  readonly inode: string
  readonly bytes: number
  /** Nanoseconds since the epoch. */
  readonly modified: string
  readonly descriptor?: number
}

/** Location of another process's memory: below /dev/shm, or at a descriptor of a process. */
export type NativePlace =
  | { readonly path: string }
  | { readonly pid: number; readonly namespace: string; readonly start: string; readonly descriptor: number }

/** Mapped memory; created only by the addon. */
export interface NativeMemory {
  readonly bytes: number
  /** Where it is in this process; 0 once it is closed. */
  readonly address: number
  readonly kind: 'anonymous' | 'shared' | 'file'
  readonly name: string | undefined
  readonly locked: boolean
  readonly lockError: string | undefined
  /** Absent for private memory. */
  readonly identity: NativeIdentity | undefined
  /** Throws MEMORY_CHANGED if it was truncated or written in place. */
  checkIntact(): void
  /** An ArrayBuffer over (at least) the range, and the range's offset in it. `close` detaches it. */
  window(offset: number, length: number): [ArrayBuffer, number]
  unlink(): void
  close(): void
}
