/** One self-contained directory, and with --archive one file, for a node without Node, npm or a registry. */
import { readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { archive } from './archive.ts'
import { makeBundle } from './make.ts'
import { ROOT } from './root.ts'

const USAGE = `usage: pnpm bundle [--out DIR] [--archive] [--no-node | --raw-node] [--programs NAMES] [--max-size SIZE]

  --out DIR        where the bundle goes (default: bundle/ in the repository); an older bundle there is replaced
  --archive        also one file beside it: ckpt-VERSION-PLATFORM.tar.xz (.tar.gz where xz is missing)
  --no-node        leave Node out: the node has its own, 20.17 or newer
  --raw-node       put Node in uncompressed: quicker to make and to start the first time, 98 MB larger
  --programs NAMES put in only these programs, separated by commas (rank: what the Python package ckpt starts), and no Python packages
  --max-size SIZE  fail when the archive, or the directory where none is made, is larger (default: 60MiB; none with --raw-node alone)
`
const DEFAULT_MAX_SIZE = '60MiB'
const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1e3, M: 1e6, G: 1e9, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 }

try {
  process.exitCode = await main(process.argv.slice(2).filter((argument) => argument !== '--'))
} catch (error) {
  log((error as Error).message)
  process.exitCode = 1
}

async function main(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      out: { type: 'string' },
      archive: { type: 'boolean' },
      'no-node': { type: 'boolean' },
      'raw-node': { type: 'boolean' },
      programs: { type: 'string' },
      'max-size': { type: 'string' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const limit = parseSize(values['max-size'] ?? (values['raw-node'] && !values.archive ? 'none' : DEFAULT_MAX_SIZE))
  if (limit === undefined || (values['no-node'] && values['raw-node'])) {
    process.stderr.write(USAGE)
    return 2
  }
  const out = values.out === undefined ? join(ROOT, 'bundle') : resolve(process.env['INIT_CWD'] ?? process.cwd(), values.out)
  const manifest = await makeBundle(out, {
    node: values['no-node'] ? 'none' : values['raw-node'] ? 'raw' : 'packed',
    ...(values.programs !== undefined && { programs: values.programs.split(',') }),
  })
  for (const { name } of manifest.addons.filter(({ built }) => !built)) log(`without ${name}: it is not built here`)
  let size = directorySize(out)
  log(`${out}: ${megabytes(size)}, ${Object.keys(manifest.files).length} files, needs glibc ${manifest.needs.glibc}`)
  if (values.archive) {
    const { version, platform, time } = manifest
    const file = archive(out, `ckpt-${version}-${platform}`, time)
    size = statSync(file).size
    log(`${file}: ${megabytes(size)}`)
  }
  if (size <= limit) return 0
  log(`too large: ${megabytes(size)}, more than ${megabytes(limit)} (--max-size)`)
  return 1
}

function parseSize(text: string): number | undefined {
  if (text === 'none') return Infinity
  const [, number, unit] = /^(\d+(?:\.\d+)?)([KMG]i?)?B?$/i.exec(text) ?? []
  const factor = UNITS[(unit ?? '').replace(/^./, (letter) => letter.toUpperCase())]
  return number === undefined || factor === undefined ? undefined : Number(number) * factor
}

function directorySize(directory: string): number {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0)
}

function megabytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`
}

function log(text: string): void {
  process.stderr.write(`bundle: ${text}\n`)
}
