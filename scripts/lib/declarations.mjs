import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { run } from './process.mjs'
import { ROOT } from './root.mjs'
import { workspacePackages } from './workspace.mjs'

/**
 * Declarations of every package, made by one compiler run over the sources, in a tree in which packages find each other's
 * declarations by name. Much faster than building each package, and needs no addon.
 * @returns {Promise<{ root: string, error?: string }>} the tree's root
 */
export async function emitDeclarations() {
  const root = join(ROOT, '.cache/api')
  rmSync(root, { recursive: true, force: true })
  mkdirSync(root, { recursive: true })
  const config = join(root, 'tsconfig.json')
  writeFileSync(
    config,
    JSON.stringify({
      extends: join(ROOT, 'tsconfig.base.json'),
      compilerOptions: {
        noEmit: false,
        declaration: true,
        emitDeclarationOnly: true,
        stripInternal: false,
        rootDir: ROOT,
        outDir: root,
        types: ['node'],
        typeRoots: [join(ROOT, 'node_modules/@types')],
      },
      include: [join(ROOT, 'packages/*/src/**/*.ts')],
      exclude: [join(ROOT, 'packages/*/src/**/*.test.ts')],
    }),
  )
  const { code, output } = await run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', config], {
    capture: true,
  })
  if (code !== 0) return { root, error: output }
  for (const entry of workspacePackages()) link(root, entry)
  return { root }
}

/** Gives one package its package.json and its dependencies inside the tree. */
function link(root, { dir, name, manifest }) {
  const target = join(root, dir)
  mkdirSync(join(target, 'node_modules'), { recursive: true })
  const exports = Object.fromEntries(
    Object.entries(manifest.exports ?? {})
      .filter(([, value]) => value?.['@ckpt/source'] !== undefined)
      .map(([key, value]) => [key, { types: declarationOf(value['@ckpt/source']) }]),
  )
  const local = dir.startsWith('packages/')
  const { version } = manifest
  const types = declarationOf(manifest.exports?.['.']?.['@ckpt/source'] ?? './index.ts')
  writeFileSync(
    join(target, 'package.json'),
    JSON.stringify({ name, version, type: 'module', types, ...(local && { exports }) }),
  )
  const own = join(ROOT, dir, 'index.d.ts')
  if (!local && existsSync(own)) writeFileSync(join(target, 'index.d.ts'), readFileSync(own))
  for (const dependency of dependencies(join(ROOT, dir, 'node_modules'))) {
    const at = join(target, 'node_modules', dependency)
    mkdirSync(dirname(at), { recursive: true })
    const source = workspacePackages().find((other) => other.name === dependency)
    symlinkSync(source ? join(root, source.dir) : join(ROOT, dir, 'node_modules', dependency), at)
  }
}

/** Path of the declarations that belong to a source file. */
export function declarationOf(source) {
  return source.replace(/[.]ts$/, '.d.ts')
}

/** Names of what pnpm linked into a node_modules directory. */
function dependencies(directory) {
  if (!existsSync(directory)) return []
  return readdirSync(directory)
    .filter((name) => !name.startsWith('.'))
    .flatMap((name) => (name.startsWith('@') ? readdirSync(join(directory, name)).map((sub) => `${name}/${sub}`) : [name]))
}
