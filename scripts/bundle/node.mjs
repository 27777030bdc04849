import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from '../lib/root.mjs'

// What every glibc system has; a Node that needs more (a distribution's, with its own libnode) would not start elsewhere.
const SYSTEM_LIBRARIES = /^(linux-vdso|ld-linux|libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|libatomic)[.-]/
const COMPRESS_TIMEOUT_MS = 10 * 60_000

/**
 * Puts the running Node into `directory`: as `node.xz` with an `id` to unpack it under and its hash, or as it is.
 * @returns {{ version: string, sha256: string }}
 */
export function copyNode(directory, { raw }) {
  const binary = process.execPath
  const foreign = foreignLibraries(binary)
  if (foreign.length > 0) {
    throw new Error(
      `${binary} needs ${foreign.join(', ')}, which other machines lack: run this with a Node from nodejs.org, or --no-node`,
    )
  }
  const bytes = readFileSync(binary)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  mkdirSync(directory, { recursive: true })
  if (raw) {
    copyFileSync(binary, join(directory, 'node'))
    chmodSync(join(directory, 'node'), 0o755)
  } else {
    copyFileSync(compressed(binary, sha256), join(directory, 'node.xz'))
    writeFileSync(join(directory, 'id'), `${process.version}-${sha256.slice(0, 12)}\n`)
    writeFileSync(join(directory, 'sha256'), `${sha256}\n`)
  }
  return { version: process.version, sha256 }
}

/** License text of the running Node, where its installation has it. */
export function nodeLicense() {
  const prefix = dirname(dirname(process.execPath))
  return ['LICENSE', 'share/doc/node/LICENSE', 'share/doc/nodejs/LICENSE', 'share/doc/nodejs/copyright']
    .map((file) => join(prefix, file))
    .find((file) => existsSync(file))
}

/** The binary under xz; kept, since it takes a minute. */
function compressed(binary, sha256) {
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

function foreignLibraries(binary) {
  const { status, stdout } = spawnSync('ldd', [binary], { encoding: 'utf8', timeout: 20_000 })
  if (status !== 0) return []
  const names = stdout.split('\n').map((line) => line.trim().split(/\s/)[0].replace(/^.*\//, ''))
  return names.filter((name) => name !== '' && !SYSTEM_LIBRARIES.test(name))
}
