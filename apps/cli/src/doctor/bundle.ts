import { createHash } from 'node:crypto'
import { createReadStream, readFileSync, realpathSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { CkptError } from '@ckpt/contract'
import { missing, ok, required, type Section } from './check.ts'

interface BundleManifest {
  readonly name: string
  readonly version: string
  readonly commit: string | null
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly sha256: string }>>
}

/** Returns the bundle that contains a script (in `lib/` below its root); undefined if there is none. */
export function bundleOf(script: string): string | undefined {
  const root = dirname(dirname(realpathSync(script)))
  return manifestIn(root)?.name === 'ckpt' ? root : undefined
}

function manifestIn(root: string): BundleManifest | undefined {
  try {
    return JSON.parse(readFileSync(join(root, 'MANIFEST.json'), 'utf8')) as BundleManifest
  } catch {
    return undefined
  }
}

/**
 * Checks the bundle that contains a script, if any, in the few milliseconds that a start allows: the sizes of all files, and
 * the content of files that run in this process (JavaScript and addons). `ckpt doctor` compares all content.
 *
 * @throws CkptError `INVALID_STATE` naming the files that are damaged or missing.
 */
export function checkBundle(script: string): void {
  const root = bundleOf(script)
  if (root === undefined) return
  const damaged = Object.entries(manifestIn(root)!.files).flatMap(([file, { bytes, sha256 }]) => {
    const path = join(root, file)
    if (statSync(path, { throwIfNoEntry: false })?.size !== bytes) return [file]
    if (!/^lib\/.*\.(?:[cm]?js|node)$/.test(file)) return []
    return createHash('sha256').update(readFileSync(path)).digest('hex') === sha256 ? [] : [file]
  })
  if (damaged.length === 0) return
  const some = damaged.slice(0, 5).join(', ')
  throw new CkptError(
    'INVALID_STATE',
    `the bundle at ${root} is damaged: ${some}${damaged.length > 5 ? ` and ${damaged.length - 5} more` : ''}: copy it again`,
    {
      fields: { file: join(root, damaged[0]!) },
    },
  )
}

/** Checks that every file of a bundle is unchanged. */
export async function bundleSection(root: string): Promise<Section> {
  const { version, commit, files } = manifestIn(root)!
  const damaged: string[] = []
  for (const [file, { sha256 }] of Object.entries(files)) {
    if ((await digest(join(root, file))) !== sha256) damaged.push(file)
  }
  const what = `${version}${commit === null ? '' : ` (${commit.slice(0, 12)})`} at ${root}`
  const facts = { version, commit, root, damaged }
  const check =
    damaged.length === 0
      ? ok('bundle', `${what}: ${Object.keys(files).length} files, all unchanged`, facts)
      : missing('bundle', `${what}: changed or missing: ${damaged.join(', ')}`, 'copy the bundle again', facts)
  return { title: 'Bundle', checks: [required(check)] }
}

async function digest(file: string): Promise<string | undefined> {
  const hash = createHash('sha256')
  return pipeline(createReadStream(file), hash).then(
    () => hash.digest('hex'),
    () => undefined,
  )
}
