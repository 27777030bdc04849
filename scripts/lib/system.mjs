import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { probe } from './process.mjs'

const CMAKE_MINIMUM = [3, 16]

/** The C++ compiler that works here for C++17: $CXX, then the usual names. */
export function compiler(env = process.env) {
  const names = env.CXX ? [env.CXX] : ['c++', 'g++', 'clang++']
  return names.find(
    (name) =>
      spawnSync(name, ['-std=c++17', '-x', 'c++', '-fsyntax-only', '-'], {
        input: '#include <optional>\nstd::optional<int> value;\n',
        env,
      }).status === 0,
  )
}

/** First two numbers in a version text. */
function version(text) {
  const match = /(\d+)\.(\d+)/.exec(text ?? '')
  return match ? [Number(match[1]), Number(match[2])] : undefined
}

/**
 * System packages that the set-up needs and this machine lacks, each with the reason and its name for apt and dnf.
 * @returns {{ what: string, apt: string, dnf: string }[]}
 */
export function missingSystemPackages(env = process.env) {
  const missing = []
  const cxx = compiler(env)
  if (cxx === undefined) missing.push({ what: 'a C++17 compiler (g++ or clang++)', apt: 'g++', dnf: 'gcc-c++' })
  const cmake = version(probe('cmake', ['--version'], { env }))
  const [major, minor] = CMAKE_MINIMUM
  if (cmake === undefined || cmake[0] < major || (cmake[0] === major && cmake[1] < minor)) {
    const found = cmake === undefined ? '' : ` (found ${cmake.join('.')})`
    missing.push({ what: `cmake ${CMAKE_MINIMUM.join('.')} or newer${found}`, apt: 'cmake', dnf: 'cmake' })
  }
  if (probe('make', ['--version'], { env }) === undefined && probe('ninja', ['--version'], { env }) === undefined) {
    missing.push({ what: 'make (or ninja)', apt: 'make', dnf: 'make' })
  }
  return missing
}

/** One message that names all missing packages and the commands that install them. */
export function missingMessage(missing, uid = process.getuid?.() ?? 1) {
  const sudo = uid === 0 ? '' : 'sudo '
  return [
    'Missing system packages:',
    ...missing.map(({ what }) => `  - ${what}`),
    'Install them with',
    `  ${sudo}apt-get install -y ${missing.map(({ apt }) => apt).join(' ')}      (Debian, Ubuntu)`,
    `  ${sudo}dnf install -y ${missing.map(({ dnf }) => dnf).join(' ')}      (Fedora, RHEL)`,
    'and run the same command again.',
  ].join('\n')
}

/** What a GPU, RDMA or engine test needs: undefined when it is here, otherwise why not and what would help. */
export function capabilities(root) {
  const venv = `${root}/.venv/bin/python`
  const python = existsSync(venv) ? venv : undefined
  const module = (name) => (python === undefined ? undefined : probe(python, ['-c', `import ${name}`]))
  return {
    gpu: probe('nvidia-smi', ['-L']) === undefined ? 'no NVIDIA GPU (nvidia-smi does not answer)' : undefined,
    rdma: existsSync('/sys/class/infiniband')
      ? undefined
      : 'no RDMA device (/sys/class/infiniband is absent); its tests bring one along in a VM',
    python: python === undefined ? 'no Python environment: run `npm run setup:python`' : undefined,
    torch: module('torch') === undefined ? 'torch is not installed: run `npm run setup:python`' : undefined,
    engine: 'they have a command of their own, `npm run test:engine`, which brings vLLM',
  }
}
