import { build as esbuild, type Plugin } from 'esbuild'
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { ROOT } from './root.ts'

/** What a user of the bundle starts or imports, and the source of each. */
export const ENTRIES: ReadonlyMap<string, string> = new Map([
  ['ckpt', 'apps/cli/src/main.ts'],
  ['ckpt-bench', 'apps/bench/src/main.ts'],
  ['rank', 'apps/rank/src/main.ts'],
  ['core', 'packages/core/src/index.ts'],
  ['server', 'packages/server/src/index.ts'],
])
/** Where the bundle keeps what lies elsewhere in the repository. */
const MOVED: readonly (readonly [string, string])[] = [
  ['packages/python/src', 'python'],
  ['packages/testing/python/src', 'python'],
]
const MAX_ROUNDS = 8

const URL_OF_FILE = /new URL\(\s*(['"])([^'"]+)\1\s*,\s*import\.meta\.url\s*\)/g
const OWN_PLACE = /import\.meta\.(dirname|filename)|createRequire\(import\.meta\.url\)/

/** What to bundle, and where to. */
export interface BundleOptions {
  readonly outdir: string
  /** Packages that stay what they are. */
  readonly external: readonly string[]
  /** What to start from, sources by the names they get; the apps where it is left out. */
  readonly first?: ReadonlyMap<string, string>
}

/** What one bundle has found that it needs. */
interface Found {
  /** Sources of programs, relative to the root, by the names they get. */
  readonly entries: Map<string, string>
  /** Other files by the names they get. */
  readonly assets: Map<string, { readonly from: string; readonly to: string }>
  readonly outdir: string
}

/**
 * Bundles the apps, and every file that they start as a process of its own or read by `new URL('…', import.meta.url)`, to `outdir`.
 * All outputs lie in that one directory, so that such a URL means the same in each of them, in shared chunks too.
 * @returns the sources that went in, relative to the root
 */
export async function bundleJavaScript({ outdir, external, first = ENTRIES }: BundleOptions): Promise<string[]> {
  const entries = new Map(first)
  const assets: Found['assets'] = new Map()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const before = entries.size
    const { metafile, warnings, outputFiles } = await esbuild({
      absWorkingDir: ROOT,
      entryPoints: [...entries].map(([out, path]) => ({ in: path, out })),
      outdir,
      outExtension: { '.js': '.mjs' },
      bundle: true,
      splitting: true,
      chunkNames: 'chunk-[hash]',
      format: 'esm',
      platform: 'node',
      target: 'node20',
      conditions: ['@ckpt/source'],
      external: [...external],
      // CommonJS packages among the dependencies ask for Node's modules by `require`.
      banner: {
        js: "import { createRequire as bundleRequire } from 'node:module'\nconst require = bundleRequire(import.meta.url)",
      },
      legalComments: 'none',
      logLevel: 'silent',
      metafile: true,
      write: false,
      plugins: [ownFiles({ entries, assets, outdir })],
    })
    if (warnings.length > 0) throw new Error(`esbuild: ${warnings.map(({ text }) => text).join('\n')}`)
    // Another process to start makes another entry, and other chunks.
    if (entries.size > before) continue
    for (const { path, contents } of outputFiles) writeFileSync(path, contents)
    for (const { from, to } of assets.values()) copyFileSync(from, to)
    return Object.keys(metafile.inputs)
  }
  throw new Error(`processes start processes, more than ${MAX_ROUNDS} deep`)
}

/** Turns URLs of the workspace's own files into those that they have in the bundle, and notes these files. */
function ownFiles(found: Found): Plugin {
  return {
    name: 'own-files',
    setup(build) {
      build.onLoad({ filter: /[.]ts$/ }, ({ path }) => {
        if (path.includes('/node_modules/')) return undefined
        const source = readFileSync(path, 'utf8')
        if (OWN_PLACE.test(source)) {
          const text = `${relative(ROOT, path)} asks where it lies; the bundle understands new URL('./file', import.meta.url) only`
          return { errors: [{ text }] }
        }
        const contents = source.replaceAll(URL_OF_FILE, (_, _quote, url: string) => {
          const place = placeInLib(resolve(dirname(path), url), found)
          return `new URL(${JSON.stringify(place)}, import.meta.url)`
        })
        return { contents, loader: 'ts' }
      })
    },
  }
}

/** The URL, relative to `lib/`, of a file of the repository. */
function placeInLib(file: string, { entries, assets, outdir }: Found): string {
  const path = relative(ROOT, file)
  const moved = MOVED.find(([from]) => path === from || path.startsWith(`${from}/`))
  if (moved !== undefined) return `../${moved[1]}${path.slice(moved[0].length)}`
  if (!/^(apps|packages|native)\//.test(path)) return `../${path}`
  if (!existsSync(file)) throw new Error(`${path} is used by its URL and does not exist`)
  if (path.endsWith('.ts')) {
    const known = [...entries].find(([, source]) => source === path)
    const name =
      known?.[0] ??
      path
        .replace(/[.]ts$/, '')
        .split('/')
        .filter((part) => !['apps', 'packages', 'src'].includes(part))
        .join('-')
    entries.set(name, path)
    return `./${name}.mjs`
  }
  const name = basename(path)
  const to = join(outdir, name)
  if ((assets.get(name)?.from ?? file) !== file) throw new Error(`two files named ${name} are used by their URLs`)
  assets.set(name, { from: file, to })
  return `./${name}`
}
