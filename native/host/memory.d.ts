/** Mapped memory; made by the addon only. */
export interface NativeMemory {
  readonly bytes: number
  readonly kind: 'anonymous' | 'shared' | 'file'
  readonly name: string | undefined
  readonly locked: boolean
  readonly lockError: string | undefined
  /** True if its file or shared memory was cut short while it was mapped: bytes past its end have read as zeros since. */
  readonly lost: boolean
  /** An ArrayBuffer over (more than) the range, and where in it the range starts. It is detached by `close`. */
  window(offset: number, length: number): [ArrayBuffer, number]
  unlink(): void
  close(): void
}
