import { stat } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { chooseFiles, type Choice } from './choose.ts'
import type { SafetensorsHeader } from './header.ts'
import { malformed, quote, unreadable } from './malformed.ts'
import { openFilesLimit, openFilesWindow } from './open-files-limit.ts'
import { changed, isShortage, OpenedFile, type FileOpener } from './opened-file.ts'
import { headerOf } from './read.ts'
import { Slices } from './slices.ts'
import { readWeightMap } from './weight-map.ts'

/** Number of files opened at the same time: enough to hide latency. */
const PARALLEL = 16

export interface OpenCheckpointOptions {
  /** Opens each file (default: by its path). */
  readonly opener?: FileOpener
  /** Maximum number of files that stay open at a time (default: a fraction of the process's limit). */
  readonly window?: number
}

/** Place where an opened checkpoint's files were found. */
interface Place {
  readonly directory: string
  readonly index?: OpenedFile
  /** Choice made for the directory, if it was searched. */
  readonly choice?: Choice
}

/**
 * The files of one checkpoint, each opened once: header and data come from the same file. As many stay open as the process can
 * afford. Once everything is read, {@link verify} proves that all of it existed at one time.
 */
export class OpenedCheckpoint {
  readonly headers: readonly SafetensorsHeader[]
  /** In the order of `headers`. */
  readonly files: readonly OpenedFile[]
  readonly directory: string
  readonly #place: Place
  readonly #byHeader: ReadonlyMap<SafetensorsHeader, OpenedFile>

  private constructor(files: readonly OpenedFile[], headers: readonly SafetensorsHeader[], place: Place) {
    this.files = files
    this.headers = headers
    this.directory = place.directory
    this.#place = place
    this.#byHeader = new Map(headers.map((header, index) => [header, files[index]!]))
  }

  /**
   * Opens the files of a checkpoint and reads their headers. `path` may be an index (`….safetensors.index.json`), a single
   * file, or a directory, in which {@link chooseFiles} finds the files.
   *
   * @throws CkptError `CHECKPOINT_UNREADABLE`, `CHECKPOINT_MALFORMED` or `CHECKPOINT_CHANGED`, naming the file, the tensor and
   * the field.
   */
  static async find(path: string, options: OpenCheckpointOptions = {}): Promise<OpenedCheckpoint> {
    const isDirectory = await stat(path).then(
      (found) => found.isDirectory(),
      (error: unknown) => {
        throw unreadable(path, error)
      },
    )
    if (!isDirectory) {
      if (path.endsWith('.json')) return openSharded(path, options)
      return OpenedCheckpoint.open([path], options, { directory: dirname(path) })
    }
    const choice = await chooseFiles(path)
    if ('index' in choice) return openSharded(join(path, choice.index), options, { directory: path, choice })
    const files = choice.files.map((name) => join(path, name))
    return OpenedCheckpoint.open(files, options, { directory: path, choice })
  }

  /** Opens several files that form one checkpoint, and reads their headers. @throws CkptError as for {@link find}. */
  static async open(
    paths: readonly string[],
    options: OpenCheckpointOptions = {},
    place: Place = { directory: dirname(paths[0] ?? '.') },
  ): Promise<OpenedCheckpoint> {
    const window = options.window ?? openFilesWindow()
    const files = new Array<OpenedFile>(paths.length)
    const headers = new Array<SafetensorsHeader>(paths.length)
    try {
      await inParallel(Math.min(PARALLEL, window), paths.length, async (i) => {
        files[i] = await OpenedFile.open(paths[i]!, options.opener)
        headers[i] = await headerOf(files[i])
        if (i >= window) await files[i].close()
      })
      await shardOf(headers)
    } catch (error) {
      await closeAll(files)
      throw isShortage(error) ? withLimit(error) : error
    }
    return new OpenedCheckpoint(files, headers, place)
  }

  /** Path of the index that named the files; absent if there was none. */
  get index(): string | undefined {
    return this.#place.index?.path
  }

  /** The opened file of a header. */
  fileOf(header: SafetensorsHeader): OpenedFile {
    return this.#byHeader.get(header)!
  }

  /**
   * Checks that every file, including the index, is unchanged since it was opened, and that the directory would be read the
   * same way. All files were opened before the first check, so if none has changed, all existed at one time.
   *
   * @throws CkptError `CHECKPOINT_CHANGED` naming the file.
   */
  async verify(): Promise<void> {
    const { index, choice, directory } = this.#place
    const files = index === undefined ? this.files : [index, ...this.files]
    await inParallel(Math.min(PARALLEL, openFilesWindow()), files.length, (i) => files[i]!.verify())
    if (choice === undefined) return
    const now = await chooseFiles(directory).catch((error: unknown) => Promise.reject(changed(directory, String(error), error)))
    if (JSON.stringify(now) !== JSON.stringify(choice)) throw changed(directory, 'files were added or removed')
  }

  /** Closes everything that is open; calling it again does nothing. */
  async [Symbol.asyncDispose](): Promise<void> {
    await closeAll(this.files)
  }
}

/**
 * Calls `work` with 0 … total - 1, `count` of them at a time. After a failure no further call begins; it is thrown when all
 * have ended.
 */
async function inParallel(count: number, total: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  let failed = false
  const one = async () => {
    try {
      for (let i = next++; i < total && !failed; i = next++) await work(i)
    } catch (error) {
      failed = true
      throw error
    }
  }
  const results = await Promise.allSettled(Array.from({ length: Math.min(count, total) }, one))
  const failure = results.find((result) => result.status === 'rejected')
  if (failure !== undefined) throw failure.reason
}

/** Closes the opened files; files that could not be opened have no entry. */
async function closeAll(files: readonly OpenedFile[]): Promise<void> {
  await Promise.allSettled(files.map((file) => file.close()))
}

async function openSharded(path: string, options: OpenCheckpointOptions, found?: Place): Promise<OpenedCheckpoint> {
  const directory = dirname(path)
  const index = await OpenedFile.open(path, options.opener)
  try {
    const weightMap = await readWeightMap(index)
    // Named in the index: read completely, and checked again by its path.
    await index.close()
    const shards = [...new Set(weightMap.values())].sort()
    const opened = await OpenedCheckpoint.open(
      shards.map((name) => join(directory, name)),
      options,
      { directory, index, ...(found?.choice && { choice: found.choice }) },
    ).catch((error: unknown) => {
      if (!CkptError.is(error, 'CHECKPOINT_UNREADABLE')) throw error
      throw new CkptError(error.code, `${error.message} (${path} names it)`, { fields: error.fields, cause: error })
    })
    try {
      await checkWeightMap(weightMap, opened, path)
      return opened
    } catch (error) {
      await opened[Symbol.asyncDispose]()
      throw error
    }
  } finally {
    await index.close()
  }
}

async function checkWeightMap(
  weightMap: ReadonlyMap<string, string>,
  { headers, directory }: OpenedCheckpoint,
  index: string,
): Promise<void> {
  const holder = await shardOf(headers)
  for (const [tensor, shard] of weightMap) {
    const found = holder.get(tensor)
    const name = found && relative(directory, found.file)
    if (name === shard) continue
    const where = name === undefined ? 'no shard holds it' : `${name} holds it`
    throw malformed({ file: index, tensor, field: 'weight_map' }, `weight_map says ${quote(shard)}, but ${where}`)
  }
}

/** Returns the header of each tensor. @throws CkptError `CHECKPOINT_MALFORMED` for a name in two headers. */
async function shardOf(headers: readonly SafetensorsHeader[]): Promise<Map<string, SafetensorsHeader>> {
  const slices = new Slices()
  const holder = new Map<string, SafetensorsHeader>()
  for (const header of headers) {
    for (const { name } of header.tensors) {
      if (slices.isOver) await slices.pause()
      const other = holder.get(name)
      if (other !== undefined) {
        throw malformed({ file: header.file, tensor: name, field: 'name' }, `the name is also in ${other.file}`)
      }
      holder.set(name, header)
    }
  }
  return holder
}

/** Returns the error about a file that could not be opened for lack of descriptors, with the limit in its message. */
function withLimit(reason: unknown): CkptError {
  const error = CkptError.from(reason, 'CHECKPOINT_UNREADABLE')
  const limit = `the process may have ${openFilesLimit()} files open (RLIMIT_NOFILE): raise it with "ulimit -n"`
  return new CkptError(error.code, `${error.message}; ${limit}`, { fields: error.fields, cause: error })
}
