/**
 * What tells a file's content apart from any other: a file that is replaced, written to or cut has a different identity. All of it comes
 * from `fstat` on an open descriptor. Writes through a shared mapping of a file in /dev/shm leave it as it is: the kernel does not count them.
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

/** A file to read from. */
export interface ReadableFile {
  readonly path: string
  /** Open descriptor of the file, which must stay open until the reading has ended; absent where the file is opened by its path. */
  readonly descriptor?: number | undefined
  /** What the file was when its header was read; opened again, it must still be that. */
  readonly identity?: FileIdentity
}

/** The part of `fs.BigIntStats` that a {@link FileIdentity} is made of. */
interface IdentityStats {
  readonly dev: bigint
  readonly ino: bigint
  readonly size: bigint
  readonly mtimeNs: bigint
  readonly ctimeNs: bigint
}

/** Identity of a file by what `fs.fstat` with `bigint: true` says. */
export function identityOf({ dev, ino, size, mtimeNs, ctimeNs }: IdentityStats): FileIdentity {
  return { device: dev, inode: ino, bytes: size, modifiedNs: mtimeNs, changedNs: ctimeNs }
}

/**
 * How a file differs from what it was, for errors: "replaced by a different file", "now 10 bytes instead of 12" or "written to"; undefined
 * where it does not differ.
 */
export function identityChange(before: FileIdentity, now: FileIdentity): string | undefined {
  if (before.device !== now.device || before.inode !== now.inode) return 'replaced by a different file'
  if (before.bytes !== now.bytes) return `now ${now.bytes} bytes instead of ${before.bytes}`
  if (before.modifiedNs !== now.modifiedNs || before.changedNs !== now.changedNs) return 'written to'
  return undefined
}
