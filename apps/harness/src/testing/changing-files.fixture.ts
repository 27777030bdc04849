import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import type { CkptError } from '@ckpt/contract'
import type { UpdateReport } from '@ckpt/core'
import { checkpointTensors, model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { expect } from 'vitest'
import { type Cluster, type GeneratedCheckpoint, generateTensors, type RankPoint, type RankUpdate } from '@ckpt/testing'

const BYTES = 12 * 2 ** 20

/** Two versions of a checkpoint that stay unchanged, and a directory under whose names either is put. */
export class ChangingFiles implements Disposable {
  /** Versions in directories that nothing changes. */
  readonly versions: readonly GeneratedCheckpoint[]
  readonly directory: string

  private constructor(versions: readonly GeneratedCheckpoint[], directory: string) {
    this.versions = versions
    this.directory = directory
  }

  /** With its directory inside `parent`. */
  static async create(parent: string, name: string): Promise<ChangingFiles> {
    const host = createHost()
    const tensors = checkpointTensors(model('qwen3-30b-a3b'), { bytes: BYTES })
    const made = [1n, 1_000_000n].map((seed, i) =>
      generateTensors(host, tensors, { id: 'changing', label: `${name}-${i}`, seed, scale: '', shardBytes: BYTES / 6 }),
    )
    return new ChangingFiles(await Promise.all(made), mkdtempSync(join(parent, `ckpt-${name}-`)))
  }

  /** Puts a version's files under the registered names, like trainers do: written next to them and renamed. */
  put(version: number): void {
    const { directory } = this.versions[version]!
    for (const name of readdirSync(directory)) {
      copyFileSync(join(directory, name), join(this.directory, `${name}.new`))
      renameSync(join(this.directory, `${name}.new`), join(this.directory, name))
    }
  }

  /** Names of the files that hold tensors. */
  get shards(): string[] {
    return readdirSync(this.directory).filter((name) => name.endsWith('.safetensors'))
  }

  /** Applies `change` to one file, with the file of the same name of a version. */
  change(how: Change, file: string, version: number): void {
    CHANGES[how](join(this.directory, file), join(this.versions[version]!.directory, file))
  }

  [Symbol.dispose](): void {
    for (const version of this.versions) version[Symbol.dispose]()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** Changes of a file: functions of its path and the path of a different version. */
const CHANGES = {
  replace(path: string, other: string) {
    copyFileSync(other, `${path}.new`)
    renameSync(`${path}.new`, path)
  },
  remove: (path: string) => rmSync(path),
  truncate: (path: string) => truncateSync(path, 70_000),
  /** Other bytes in the same inode. */
  overwrite(path: string, other: string) {
    const data = readFileSync(other)
    const fd = openSync(path, 'r+')
    writeSync(fd, data, 0, data.length, 0)
    ftruncateSync(fd, data.length)
    closeSync(fd)
  },
}
export type Change = keyof typeof CHANGES
export const CHANGE_NAMES = Object.keys(CHANGES) as Change[]

/** Ways of an update, by name. */
export const STRATEGIES: Record<string, Partial<RankUpdate>> = {
  broadcast: {},
  p2p: { p2p: [0, 1] },
  direct: { strategy: 'direct' },
}
/** Points from registration to commit, in this order. */
export type Point = 'registered' | 'gathered' | RankPoint
export const POINTS: readonly Point[] = ['registered', 'gathered', 'begin', 'plan', 'h2d', 'broadcast']

/** Gathers and updates a registered checkpoint; `act` is called at a point in between. */
export async function updateChanging(
  cluster: Cluster,
  { name, point, options }: { readonly name: string; readonly point: Point; readonly options: Partial<RankUpdate> },
  act: () => void,
): Promise<UpdateReport[]> {
  if (point === 'registered') act()
  // Ranks that pull by p2p use the metas that were gathered last.
  if (options.p2p || point === 'gathered') await gather(cluster, name)
  if (point === 'gathered') act()
  if (point === 'registered' || point === 'gathered') return cluster.update(name, options)
  return heldUpdate(cluster, { name, ...options, hold: { at: point } }, act)
}

/** Lets every rank learn what the others have registered. */
export async function gather(cluster: Cluster, name: string): Promise<void> {
  await cluster.all('gatherMetas', () => ({ name, digests: true }))
}

/** Unregisters on every rank; if an update failed on one rank, others may still be about to release it. */
export async function forget(cluster: Cluster, name: string): Promise<void> {
  await Promise.all(
    cluster.ranks.map(async (rank) => {
      const attempt = () =>
        rank.call('unregister', { name }).then(
          () => 'done',
          (error: unknown) => (error as CkptError).code,
        )
      await expect.poll(attempt, { timeout: 60_000 }).toBe('done')
    }),
  )
}

/** Makes an update in which all ranks wait at a point until `act` is done. */
async function heldUpdate(
  cluster: Cluster,
  update: Omit<RankUpdate, 'engineSocket'>,
  act: () => void,
): Promise<UpdateReport[]> {
  const reached = cluster.ranks.map(
    ({ process }) =>
      new Promise<void>((resolve) => {
        const listen = (message: object): void => {
          if (!('point' in message)) return
          process.child.off('message', listen)
          resolve()
        }
        process.child.on('message', listen)
      }),
  )
  const { name, ...options } = update
  const updating = cluster.update(name, options)
  updating.catch(() => undefined)
  await Promise.race([Promise.all(reached), updating])
  act()
  await cluster.all('go', () => undefined)
  return updating
}
