import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from './root.ts'

/** The Node that bundles carry, and the SHA-256 of its binary by processor: nodejs.org's build, from its package on npm. */
const BUNDLED = {
  version: '24.22.3',
  sha256: new Map([
    ['x64', 'a7ec1b37e6ff9d187e4198c5b6df9a4eb1c74dd31804fb3bac55cc4ceca1ac01'],
    ['arm64', '8f9c2a55879e9705cb285b6cdd649d95df642c6720f052cb30f300d2677da99f'],
  ]),
}
const FETCH_TIMEOUT_MS = 10 * 60_000
const COMPRESS_TIMEOUT_MS = 10 * 60_000

/** Node as a bundle lists it. */
export interface BundledNode {
  readonly version: string
  readonly sha256: string
}

/** A Node on this machine's disk, and its license text. */
export interface FetchedNode {
  readonly binary: string
  readonly license: string
}

/**
 * Brings a Node of another version from npm, into `.cache/nodes`; at once where it is there.
 * @param version of a release (`24.22.3`), or the major one of which the newest is wanted (`24`)
 * @throws Error with what npm said
 */
export function fetchNode(version: string): FetchedNode {
  const directory = join(ROOT, '.cache/nodes', version)
  const found = { binary: join(directory, 'package/bin/node'), license: join(directory, 'package/LICENSE') }
  if (existsSync(found.binary)) return found
  mkdirSync(dirname(directory), { recursive: true })
  const part = mkdtempSync(`${directory}.part-`)
  try {
    const name = `node-${process.platform}-${process.arch}@${version}`
    const script = 'npm pack --silent "$1" && tar -xzf ./*.tgz && rm ./*.tgz'
    const { status, stdout, stderr, error } = spawnSync('sh', ['-c', script, 'sh', name], {
      cwd: part,
      encoding: 'utf8',
      timeout: FETCH_TIMEOUT_MS,
    })
    if (status !== 0) throw new Error(`cannot fetch ${name} from npm: ${error?.message ?? `${stdout}${stderr}`.trim()}`)
    rmSync(directory, { recursive: true, force: true })
    renameSync(part, directory)
    return found
  } finally {
    rmSync(part, { recursive: true, force: true })
  }
}

/**
 * Puts Node into `directory`: as `node.xz` with an `id` to unpack it under and its hash, or, where `raw`, as it is.
 * @param fetched the Node, where it is here already
 * @returns what it is, and where its license text lies
 * @throws Error where npm's binary is not the one whose hash is known
 */
export function copyNode(
  directory: string,
  raw: boolean,
  fetched = fetchNode(BUNDLED.version),
): { node: BundledNode; binary: string; license: string } {
  const { version } = BUNDLED
  const { binary, license } = fetched
  const sha256 = createHash('sha256').update(readFileSync(binary)).digest('hex')
  if (sha256 !== BUNDLED.sha256.get(process.arch)) {
    throw new Error(
      `${binary} has SHA-256 ${sha256}, not that of Node ${version} for ${process.arch}: remove it, or use --no-node`,
    )
  }
  mkdirSync(directory, { recursive: true })
  if (raw) {
    copyFileSync(binary, join(directory, 'node'))
    chmodSync(join(directory, 'node'), 0o755)
  } else {
    copyFileSync(compressed(binary, sha256), join(directory, 'node.xz'))
    writeFileSync(join(directory, 'id'), `v${version}-${sha256.slice(0, 12)}\n`)
    writeFileSync(join(directory, 'sha256'), `${sha256}\n`)
  }
  return { node: { version: `v${version}`, sha256 }, binary, license }
}

/** The binary under xz; kept, since it takes a minute. */
function compressed(binary: string, sha256: string): string {
  const file = join(ROOT, '.cache/bundle', `node-${sha256.slice(0, 16)}.xz`)
  if (existsSync(file)) return file
  mkdirSync(dirname(file), { recursive: true })
  const part = `${file}.${process.pid}`
  // x86 filters first: a machine code's relative calls compress better as absolute ones.
  const filter = process.arch === 'x64' ? ['--x86'] : process.arch === 'arm64' ? ['--arm64'] : []
  const { status, error, stderr } = spawnSync(
    'sh',
    ['-c', 'exec xz --check=sha256 -T1 "$@" -c >"$OUT" <"$IN"', 'xz', ...filter, '--lzma2=preset=9'],
    { env: { ...process.env, IN: binary, OUT: part }, encoding: 'utf8', timeout: COMPRESS_TIMEOUT_MS },
  )
  if (status !== 0) {
    throw new Error(`compressing Node failed (apt-get install xz-utils, or use --raw-node): ${error?.message ?? stderr.trim()}`)
  }
  renameSync(part, file)
  return file
}
