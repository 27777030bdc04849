/** A limit on the memory of this process, and how much of it is used. In bytes; `Infinity` if unlimited. */
export interface NativeMemoryLimit {
  /** File that contains the number. */
  readonly file: string
  /** Readable text: `/sys/fs/cgroup/a/memory.max is 2.0 GiB, 1.9 GiB of it used`. */
  readonly text: string
  readonly bytes: number
  readonly used: number
  readonly available: number
}

export interface NativeLimits {
  /** Memory in bytes that this process can still allocate, under the strictest of `memoryLimits`. */
  availableBytes(): number
  /**
   * Memory limits: the kernel's estimate, and the control groups (versions 1 and 2) with their ancestors; the strictest first.
   * `root` is prepended to every path that is read, for tests.
   */
  memoryLimits(root?: string): NativeMemoryLimit[]
  /** Number of CPUs that this process can use: those it may run on, or the control groups' quota, rounded up. */
  usableCpus(root?: string): number
}
