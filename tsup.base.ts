import { defineConfig, type Options } from 'tsup'

/** The build every package shares: ESM with declarations, sources left as they are (no minifying), externals untouched. */
export function packageBuild(options: Options = {}) {
  return defineConfig({
    entry: ['src/index.ts'],
    format: ['esm'],
    target: 'node20',
    dts: true,
    sourcemap: true,
    clean: true,
    ...options,
  })
}
