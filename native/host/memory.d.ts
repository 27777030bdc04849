/** What a memory is for other processes; numbers that may have 64 bits are decimal text. */
export interface NativeIdentity {
  readonly device: string
  readonly inode: string
  readonly bytes: number
  /** Nanoseconds since the epoch. */
  readonly modified: string
  readonly descriptor?: number
}

/** Where memory of another process is: beneath /dev/shm, or at a descriptor of a process. */
export type NativePlace =
  | { readonly path: string }
  | { readonly pid: number; readonly namespace: string; readonly start: string; readonly descriptor: number }

/** Mapped memory; made by the addon only. */
export interface NativeMemory {
  readonly bytes: number
  readonly kind: 'anonymous' | 'shared' | 'file'
  readonly name: string | undefined
  readonly locked: boolean
  readonly lockError: string | undefined
  /** Absent for private memory. */
  readonly identity: NativeIdentity | undefined
  /** Throws MEMORY_CHANGED when it was cut short, or written to in place. */
  checkIntact(): void
  /** An ArrayBuffer over (more than) the range, and where in it the range starts. It is detached by `close`. */
  window(offset: number, length: number): [ArrayBuffer, number]
  unlink(): void
  close(): void
}
