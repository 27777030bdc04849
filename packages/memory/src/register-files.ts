import { CkptError } from '@ckpt/contract'
import { OpenedCheckpoint } from '@ckpt/safetensors'
import { RootDirectory } from './beneath.ts'
import { checkCarried } from './carried.ts'
import { loadFiles, mapFiles, throwIfAborted, type LoadContext, type Loaded } from './load.ts'
import { shareOf } from './share.ts'
import type { CheckpointSource } from './source.ts'

type FileSource = Exclude<CheckpointSource, { readonly tensors: unknown } | { readonly trainer: string }>

export interface FileOptions {
  readonly inPlace: boolean
  readonly share: { readonly index: number; readonly count: number } | undefined
}

/**
 * Loads the tensors of files into memory. Each file is opened once, and header and data are read from that opened file. In the
 * end every file must be unchanged, so all bytes existed at one time.
 *
 * @throws CkptError `CHECKPOINT_CHANGED` naming a file that changed; or as for `CheckpointStore.register`. Nothing is kept
 * then.
 */
export async function registerFiles(source: FileSource, options: FileOptions, context: LoadContext): Promise<Loaded> {
  const { host } = context
  await using root = 'files' in source && source.root !== undefined ? await RootDirectory.open(host, source.root) : undefined
  await using opened = await openSource(source, root)
  throwIfAborted(context.signal)
  checkNotEmpty(source, opened)
  for (const { file, tensors } of opened.headers) checkCarried(tensors, { file })
  const shares = shareOf(opened.headers, options.share?.index ?? 0, options.share?.count ?? 1)
  // Awaited here, because the files are open until then.
  return await (options.inPlace ? mapFiles(shares, opened, context) : loadFiles(shares, opened, context))
}

async function openSource(source: FileSource, root: RootDirectory | undefined): Promise<OpenedCheckpoint> {
  if ('directory' in source) return OpenedCheckpoint.find(source.directory)
  if (root === undefined) return OpenedCheckpoint.open(source.files)
  const paths = await Promise.all(source.files.map((path) => root.place(path)))
  return OpenedCheckpoint.open(paths, { opener: root.opener })
}

/** A rank may be given no files, but files without tensors are a mistake that would otherwise show only once engines wait. */
function checkNotEmpty(source: FileSource, { headers, directory }: OpenedCheckpoint): void {
  if (headers.length === 0 || headers.some(({ tensors }) => tensors.length > 0)) return
  const file = 'directory' in source && headers.length > 1 ? directory : headers[0]!.file
  throw new CkptError('CHECKPOINT_MALFORMED', `${file}: the checkpoint's ${headers.length} files contain no tensor`, {
    fields: { file, field: 'header' },
  })
}
