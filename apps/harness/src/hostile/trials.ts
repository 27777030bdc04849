/** Requests to a rank under attack. */
export type Asked =
  | {
      readonly kind: 'update'
      readonly version: string
      readonly timeoutMs: number
      readonly strategy: 'direct' | 'broadcast'
      /** By a parameter server that knows nothing of the engine yet. */
      readonly fresh: boolean
      /** Only prepares the update. */
      readonly prepare: boolean
    }
  | { readonly kind: 'mark'; readonly name: string }

/** Result of an update: a report, or an error. */
export interface Outcome {
  readonly strategy?: string
  readonly verified?: string | boolean
  readonly code?: string
  readonly message?: string
  readonly causes?: readonly string[]
  readonly stack?: string
}

/** Resources of a process. */
export interface Holds {
  readonly files: number
  readonly shared: number
  readonly residentBytes: number
}

/** Paths that were opened for writing between the marks of a trace (`strace -y`), as the system resolved them. */
export function openedForWriting(trace: string): string[] {
  const begin = trace.indexOf('"/ckpt-trace-begins"')
  const end = trace.indexOf('"/ckpt-trace-ends"')
  if (begin < 0 || end < begin) throw new Error('the marks are not in the trace')
  return trace
    .slice(begin, end)
    .split('\n')
    .filter((line) => /O_RDWR|O_WRONLY|O_CREAT|O_TRUNC|creat\(/.test(line))
    .map((line) => /= \d+<(.*)>$/.exec(line)?.[1] ?? '')
    .filter((path) => path !== '')
}
