import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pnpm } from '../lib/pnpm.mjs'
import { LIBAEGIS } from '../lib/libaegis.mjs'
import { run } from '../lib/process.mjs'
import { ROOT } from '../lib/root.mjs'
import { type Manifest, workspacePackages } from '../lib/workspace.mjs'

/** Of the library that is linked into the host addon. */
const LIBAEGIS_LICENSE = join(LIBAEGIS, 'LICENSE')
const PLATFORM = `${process.platform}-${process.arch}`

/** A package as a tarball. */
export interface Packed {
  readonly name: string
  readonly version: string
  readonly file: string
  /** In the workspace; platform packages have none. */
  readonly dir?: string
  readonly platform?: boolean
}

/** What of the workspace is published: public packages, apps among them. */
export function publicPackages() {
  return workspacePackages().filter(({ manifest }) => manifest.private !== true)
}

/**
 * Packs every public package, and one package with the built addon for this platform for each addon, into `out`. Addons get what the
 * workspace must not have: their platform package as an optional dependency, and the script that builds them where it is missing.
 * @throws Error with what pnpm or npm said
 */
export async function packAll(out: string): Promise<Packed[]> {
  rmSync(out, { recursive: true, force: true })
  mkdirSync(out, { recursive: true })
  const packed: Packed[] = []
  for (const { dir, name, manifest } of publicPackages()) {
    const { version } = manifest
    const file = join(out, tarball(name, version))
    must('pnpm pack', await pnpm(['pack', '--pack-destination', out], { cwd: join(ROOT, dir), capture: true }))
    packed.push({ name, version, file, dir })
    if (!existsSync(join(ROOT, dir, 'install.mjs'))) {
      await rewrite(out, file, (published) => withRepository(published, dir))
      continue
    }
    const platform = await packPlatform(out, dir, manifest)
    await rewrite(out, file, (published) => ({
      ...withRepository(published, dir),
      scripts: { install: 'node install.mjs' },
      optionalDependencies: { ...published.optionalDependencies, [`${name}-${PLATFORM}`]: version },
    }))
    if (platform !== undefined) packed.push(platform)
  }
  return packed
}

/** The addon that was built here as a package of its own; undefined where there is none. */
async function packPlatform(out: string, dir: string, { name, version }: Manifest): Promise<Packed | undefined> {
  const release = join(ROOT, dir, 'build/Release')
  const addons = existsSync(release) ? readdirSync(release).filter((entry) => entry.endsWith('.node')) : []
  if (addons.length === 0) return undefined
  const staging = join(out, 'platform')
  mkdirSync(staging, { recursive: true })
  for (const addon of addons) cpSync(join(release, addon), join(staging, addon))
  cpSync(join(ROOT, 'LICENSE'), join(staging, 'LICENSE'))
  const licences = dir === 'native/host' && existsSync(LIBAEGIS_LICENSE) ? ['LICENSE.libaegis'] : []
  for (const licence of licences) cpSync(LIBAEGIS_LICENSE, join(staging, licence))
  const full = `${name}-${PLATFORM}`
  const manifest = {
    name: full,
    version,
    description: `The addon of ${name}, built for ${PLATFORM} with glibc.`,
    license: 'MIT',
    engines: { node: '>=20.17' },
    type: 'commonjs',
    os: [process.platform],
    cpu: [process.arch],
    libc: ['glibc'],
    main: addons[0],
    files: [...addons, ...licences],
    publishConfig: { access: 'public', provenance: true },
  }
  writeFileSync(join(staging, 'package.json'), JSON.stringify(withRepository(manifest, dir), undefined, 2))
  const readme = `# ${full}\n\n${manifest.description} Installed by ${name}; not for use by itself.\n`
  writeFileSync(join(staging, 'README.md'), readme)
  await npmPack(out, staging)
  rmSync(staging, { recursive: true })
  return { name: full, version, file: join(out, tarball(full, version)), platform: true }
}

/** Changes the package.json inside a tarball. */
async function rewrite(out: string, file: string, change: (published: Manifest) => object): Promise<void> {
  const staging = join(out, 'rewritten')
  mkdirSync(staging, { recursive: true })
  must('tar', await run('tar', ['-xzf', file, '-C', staging], { capture: true }))
  const at = join(staging, 'package/package.json')
  writeFileSync(at, `${JSON.stringify(change(JSON.parse(readFileSync(at, 'utf8')) as Manifest), undefined, 2)}\n`)
  rmSync(file)
  await npmPack(out, join(staging, 'package'))
  rmSync(staging, { recursive: true })
}

/** npm's provenance wants to know the repository; CI does. */
function withRepository<T extends object>(manifest: T, directory: string): T {
  const slug = process.env['GITHUB_REPOSITORY']
  return slug === undefined
    ? manifest
    : { ...manifest, repository: { type: 'git', url: `git+https://github.com/${slug}.git`, directory } }
}

function tarball(name: string, version: string): string {
  return `${name.replace('@', '').replace('/', '-')}-${version}.tgz`
}

async function npmPack(out: string, cwd: string): Promise<void> {
  must('npm pack', await run('npm', ['pack', '--ignore-scripts', '--pack-destination', out], { cwd, capture: true }))
}

function must(what: string, { code, output }: { code: number; output: string }): void {
  if (code !== 0) throw new Error(`${what} failed (${code}):\n${output}`)
}
