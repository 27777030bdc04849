#!/usr/bin/env node
// Makes the lock files of scripts/python: every package that our scripts install from PyPI, with its version and the SHA-256 of each of its
// files. Needs `uv` (CKPT_UV names it; pip install uv) and PyPI. Versions that a lock file has stay unless --upgrade is given.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { run } from './lib/process.mjs'
import { PYTHON } from './lib/python-locks.mjs'

/** Packages that depend on where torch comes from, and are locked apart. */
const OF_TORCH = /^(torch|triton|nvidia-.+|cuda-.+)$/
const NOT_WITH_VLLM = ['torch', 'torchvision', 'torchaudio', 'torchcodec']
const HEAD = '# Made by `npm run lock:python`; do not edit.\n'

const { values } = parseArgs({ options: { upgrade: { type: 'boolean' } } })
const scratch = mkdtempSync(join(tmpdir(), 'ckpt-lock-'))
try {
  const all = await compile('all', ['requirements.txt'], { python: '3.10', seeds: ['requirements.lock', 'torch.lock'] })
  const alone = await compile('alone', ['requirements-no-deps.txt'], {
    python: '3.10',
    seeds: ['requirements.lock'],
    more: ['--no-deps'],
  })
  const entries = [...all, ...alone].sort((a, b) => (a.name < b.name ? -1 : 1))
  save(
    'requirements.lock',
    entries.filter(({ name }) => !OF_TORCH.test(name)),
  )
  save(
    'torch.lock',
    entries.filter(({ name }) => OF_TORCH.test(name)),
  )
  // Not installed and not looked for: no system is called that.
  const never = join(scratch, 'never.txt')
  writeFileSync(never, NOT_WITH_VLLM.map((name) => `${name}; sys_platform == 'never'\n`).join(''))
  const vllm = await compile('vllm', ['vllm.txt'], { python: '3.11', seeds: ['vllm.lock'], more: ['--override', never] })
  save(
    'vllm.lock',
    vllm.filter(({ name }) => !NOT_WITH_VLLM.includes(name)),
  )
  const builder = await compile('libaegis-build', ['libaegis-build.txt'], { python: '3.11', seeds: ['libaegis-build.lock'] })
  save('libaegis-build.lock', builder)
  save(
    'libaegis.lock',
    await compile('libaegis', ['libaegis.txt'], { python: '3.11', seeds: ['libaegis.lock'], more: ['--no-deps'] }),
  )
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

/** The locked packages of some requirements: names, and their lines with hashes. */
async function compile(name, inputs, { python, seeds, more = [] }) {
  const out = join(scratch, `${name}.lock`)
  if (!values.upgrade) {
    const known = seeds.map((file) => join(PYTHON, file)).filter((file) => existsSync(file))
    writeFileSync(out, known.map((file) => readFileSync(file, 'utf8')).join('\n'))
  }
  const { code, output } = await run(
    process.env.CKPT_UV || 'uv',
    [
      ...['pip', 'compile', '--quiet', '--universal', '--generate-hashes', '--no-header', '--no-annotate'],
      ...['--python-version', python],
      ...[...more, '--output-file', out],
      ...inputs.map((file) => join(PYTHON, file)),
    ],
    { capture: true },
  )
  if (code !== 0) throw new Error(`uv cannot lock ${inputs.join(', ')}: ${output.trim()}`)
  return readFileSync(out, 'utf8')
    .split(/\n(?=[a-z\d])/i)
    .filter((text) => /^[a-z\d]/i.test(text))
    .map((text) => ({ name: /^[\w.-]+/.exec(text)[0], text: text.trimEnd() }))
}

function save(file, entries) {
  writeFileSync(join(PYTHON, file), `${HEAD}${entries.map(({ text }) => `${text}\n`).join('')}`)
  process.stdout.write(`${file}: ${entries.length} packages\n`)
}
