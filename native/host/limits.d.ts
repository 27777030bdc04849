/** A limit on the memory of this process, and how much of it is used. Figures in bytes; `Infinity` for none. */
export interface NativeMemoryLimit {
  /** The file that holds the number. */
  readonly file: string
  /** For people: `/sys/fs/cgroup/a/memory.max is 2.0 GiB, 1.9 GiB of it used`. */
  readonly text: string
  readonly bytes: number
  readonly used: number
  readonly available: number
}

export interface NativeLimits {
  /** Memory in bytes that this process can still have: what the tightest of `memoryLimits` leaves. */
  availableBytes(): number
  /**
   * What limits memory: the kernel's estimate, and the control groups (versions 1 and 2) with their ancestors; the tightest first.
   * `root` is prepended to every path that is read, for tests.
   */
  memoryLimits(root?: string): NativeMemoryLimit[]
  /** CPUs that this process can keep busy: those it may run on, or the control groups' quota, rounded up. */
  usableCpus(root?: string): number
}
