/**
 * Identity of a file's content: a file that is replaced, written to or truncated has a different identity. All of it comes from
 * `fstat` on an open descriptor. Writes through a shared mapping of a file in /dev/shm do not change it, because the kernel
 * does not count them.
 */
export interface FileIdentity {
  readonly device: bigint
  readonly inode: bigint
  readonly bytes: bigint
  /** Time of the last write, in nanoseconds. */
  readonly modifiedNs: bigint
  /** Time of the last change of content or attributes, in nanoseconds; no program can set it. */
  readonly changedNs: bigint
}

/** A readable file. */
export interface ReadableFile {
  readonly path: string
  /**
   * Open descriptor of the file, which must stay open until the reading has ended; absent if the file is opened by its path.
   */
  readonly descriptor?: number | undefined
  /** Identity of the file when its header was read; a reopened file must still have it. */
  readonly identity?: FileIdentity
}

/** Part of `fs.BigIntStats` from which a {@link FileIdentity} is made. */
interface IdentityStats {
  readonly dev: bigint
  readonly ino: bigint
  readonly size: bigint
  readonly mtimeNs: bigint
  readonly ctimeNs: bigint
}

/** Returns the identity of a file from the result of `fs.fstat` with `bigint: true`. */
export function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: IdentityStats): FileIdentity {
  return { device: dev, inode: ino, bytes: size, modifiedNs: mtimeNs, changedNs: ctimeNs }
}

/**
 * Describes how a file has changed, for errors: "replaced by a different file", "now 10 bytes instead of 12" or "written to";
 * undefined if it has not changed.
 */
export function identityChange(before: FileIdentity, now: FileIdentity): string | undefined {
  if (before.device !== now.device || before.inode !== now.inode) return 'replaced by a different file'
  if (before.bytes !== now.bytes) return `now ${now.bytes} bytes instead of ${before.bytes}`
  if (before.modifiedNs !== now.modifiedNs || before.changedNs !== now.changedNs) return 'written to'
  return undefined
}
