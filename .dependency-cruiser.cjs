// The arrows between packages: what may import what (docs/architecture.md, "Packages"). Everything may import `contract` and `utils`.
const ARROWS = {
  'packages/contract': [],
  'packages/bundle': [],
  'packages/utils': [],
  'packages/safetensors': [],
  'packages/planner': [],
  'packages/models': [],
  'packages/memory': ['packages/safetensors'],
  'packages/transport': ['native/[^/]+'],
  'packages/staging': ['packages/planner'],
  'packages/broadcast': ['packages/planner', 'packages/staging'],
  'packages/p2p': ['packages/planner', 'packages/staging', 'packages/transport'],
  'packages/direct': ['packages/planner', 'packages/staging', 'packages/worker-link'],
  'packages/rendezvous': [],
  'packages/worker-link': [],
  'packages/vllm': [],
  'packages/sglang': [],
  'packages/core': [
    'packages/broadcast',
    'packages/direct',
    'packages/memory',
    'packages/p2p',
    'packages/planner',
    'packages/rendezvous',
    'packages/transport',
    'packages/worker-link',
  ],
  'packages/server': ['packages/core', 'packages/transport'],
  'native/common': [],
  'native/host': ['native/common'],
  'native/cuda': ['native/common'],
  'native/rdma': ['native/common'],
  'native/ucx': ['native/common'],
  'apps/cli': [
    'packages/core',
    'packages/models',
    'packages/p2p',
    'packages/planner',
    'packages/safetensors',
    'packages/server',
    'packages/sglang',
    'packages/testing',
    'packages/vllm',
  ],
  // The RDMA addon itself is what tests in a VM are about.
  'packages/testing': [
    'packages/broadcast',
    'packages/bundle',
    'packages/core',
    'packages/models',
    'packages/p2p',
    'packages/planner',
    'packages/safetensors',
    'packages/server',
    'packages/transport',
    'packages/vllm',
    'packages/worker-link',
    'native/rdma',
  ],
  'apps/harness': [
    'packages/bundle',
    'packages/core',
    'packages/models',
    'packages/safetensors',
    'packages/server',
    'packages/testing',
    'packages/transport',
    'packages/worker-link',
  ],
  'apps/rank': ['packages/core', 'packages/p2p', 'packages/server', 'packages/sglang', 'packages/transport', 'packages/vllm'],
  'apps/bench': [
    'packages/core',
    'packages/models',
    'packages/p2p',
    'packages/planner',
    'packages/rendezvous',
    'packages/safetensors',
    'packages/testing',
    'packages/transport',
  ],
}

/** What every package may import; `utils` needs `contract` for its errors. */
const EVERYWHERE = ['packages/contract', 'packages/utils']

const ANY_PACKAGE = '^(packages|native|apps)/[^/]+/'
// Tests may also use what their package.json names under devDependencies; pnpm lets nothing else be resolved.
const TEST = '([.](test|fixture|bench|fuzz)[.]ts$|^packages/[^/]+/src/testing/|^native/[^/]+/test/|/[^/]+[.]config[.]ts$)'

function arrow([name, allowed]) {
  const targets = [name, ...EVERYWHERE, ...allowed].map((target) => `^${target}/`)
  return {
    name: `arrow-${name}`,
    comment: `${name} may import ${[...EVERYWHERE, ...allowed].join(', ')} and nothing else of this repository`,
    severity: 'error',
    from: { path: `^${name}/`, pathNot: TEST },
    to: { path: ANY_PACKAGE, pathNot: targets },
  }
}

/** @type {import('dependency-cruiser').IConfiguration} */
module.exports = {
  forbidden: [
    ...Object.entries(ARROWS).map(arrow),
    {
      name: 'package-without-arrows',
      comment: 'A new package must be given its arrows in .dependency-cruiser.cjs',
      severity: 'error',
      from: { path: ANY_PACKAGE, pathNot: [...Object.keys(ARROWS).map((name) => `^${name}/`), TEST] },
      to: {},
    },
    {
      name: 'no-cycles',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'nothing-imports-apps',
      severity: 'error',
      from: { path: '^(packages|native)/', pathNot: TEST },
      to: { path: '^apps/' },
    },
    {
      name: 'no-tests-in-code',
      severity: 'error',
      from: { pathNot: TEST },
      to: { path: '[.]test[.]ts$' },
    },
    {
      name: 'no-unresolvable',
      comment: 'Not installed, or not named in the package.json of the package that imports it',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true, pathNot: '[.]node$' },
    },
    {
      name: 'no-undeclared',
      comment: 'Name it under dependencies in the package.json of the package that imports it',
      severity: 'error',
      from: { path: ANY_PACKAGE, pathNot: TEST },
      to: { dependencyTypes: ['npm-no-pkg', 'npm-unknown', 'npm-dev'], dependencyTypesNot: ['type-only'] },
    },
    {
      name: 'no-reaching-in',
      comment: 'Import a package by its name, not by a path into it',
      severity: 'error',
      from: { path: '^(packages|native|apps)/([^/]+)/', pathNot: TEST },
      to: { path: ANY_PACKAGE, pathNot: '^$1/$2/', dependencyTypes: ['local'] },
    },
  ],
  options: {
    doNotFollow: { path: ['node_modules'] },
    exclude: { path: ['^(packages|native|apps)/[^/]+/(dist|build|python)/'] },
    tsPreCompilationDeps: true,
    combinedDependencies: false,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['@ckpt/source', 'import', 'node', 'types', 'default'],
      extensions: ['.ts', '.mts', '.mjs', '.js', '.json', '.node'],
    },
  },
}
