/**
 * Makes the lock files of scripts/python: every package that our scripts install from PyPI, with its version and the SHA-256 of each of its
 * files. Needs `uv` (CKPT_UV names it; pip install uv) and PyPI. Versions that a lock file has stay unless --upgrade is given.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { run } from './lib/process.mjs'
import { PYTHON } from './lib/python-install.ts'

/** Packages that depend on where torch comes from, and are locked apart. */
const OF_TORCH = /^(torch|triton|nvidia-.+|cuda-.+)$/
const NOT_WITH_VLLM = ['torch', 'torchvision', 'torchaudio', 'torchcodec']
const HEAD = '# Made by `npm run lock:python`; do not edit.\n'

const { values } = parseArgs({ options: { upgrade: { type: 'boolean' } } })
const scratch = mkdtempSync(join(tmpdir(), 'ckpt-lock-'))
try {
  const seeds = ['requirements.lock', 'torch.lock']
  const all = await compile('requirements', { python: '3.10', seeds })
  const alone = await compile('requirements-no-deps', { python: '3.10', seeds, more: ['--no-deps'] })
  const entries = [...all, ...alone].sort((a, b) => (a.name < b.name ? -1 : 1))
  save('requirements', entries, (name) => !OF_TORCH.test(name))
  save('torch', entries, (name) => OF_TORCH.test(name))
  // Not installed and not looked for: no system is called that.
  const never = join(scratch, 'never.txt')
  writeFileSync(never, NOT_WITH_VLLM.map((name) => `${name}; sys_platform == 'never'\n`).join(''))
  save('vllm', await compile('vllm', { more: ['--override', never] }), (name) => !NOT_WITH_VLLM.includes(name))
  save('deploy', await compile('deploy', { python: '3.10' }))
  save('trainers', await compile('trainers', { more: ['--override', never] }), (name) => !OF_TORCH.test(name))
  save('libaegis-build', await compile('libaegis-build'))
  save('libaegis', await compile('libaegis', { more: ['--no-deps'] }))
} finally {
  rmSync(scratch, { recursive: true, force: true })
}

/** How requirements are locked. */
interface Compilation {
  /** Oldest Python (default: 3.11). */
  readonly python?: string
  /** Lock files whose versions stay (default: the one of the same name). */
  readonly seeds?: readonly string[]
  readonly more?: readonly string[]
}

/** A locked package: its name, and its lines with hashes. */
interface Entry {
  readonly name: string
  readonly text: string
}

/** The packages that `NAME.txt` leads to. */
async function compile(
  name: string,
  { python = '3.11', seeds = [`${name}.lock`], more = [] }: Compilation = {},
): Promise<Entry[]> {
  const out = join(scratch, `${name}.lock`)
  if (!values.upgrade) {
    const known = seeds.map((file) => join(PYTHON, file)).filter((file) => existsSync(file))
    writeFileSync(out, known.map((file) => readFileSync(file, 'utf8')).join('\n'))
  }
  const { code, output } = await run(
    process.env['CKPT_UV'] || 'uv',
    [
      ...['pip', 'compile', '--quiet', '--universal', '--generate-hashes', '--no-header', '--no-annotate'],
      ...['--python-version', python],
      ...[...more, '--output-file', out],
      join(PYTHON, `${name}.txt`),
    ],
    { capture: true },
  )
  if (code !== 0) throw new Error(`uv cannot lock ${name}.txt: ${output.trim()}`)
  return readFileSync(out, 'utf8')
    .split(/\n(?=[a-z\d])/i)
    .filter((text) => /^[a-z\d]/i.test(text))
    .map((text) => ({ name: /^[\w.-]+/.exec(text)![0], text: text.trimEnd() }))
}

function save(name: string, entries: readonly Entry[], wanted: (package_: string) => boolean = () => true): void {
  const kept = entries.filter((entry) => wanted(entry.name))
  writeFileSync(join(PYTHON, `${name}.lock`), `${HEAD}${kept.map(({ text }) => `${text}\n`).join('')}`)
  process.stdout.write(`${name}.lock: ${kept.length} packages\n`)
}
