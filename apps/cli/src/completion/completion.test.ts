import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { run } from '../run.ts'

type Shell = 'bash' | 'zsh' | 'fish'

let directory: string
const scripts = new Map<Shell, string>()
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-completion-test-'))
  writeFileSync(join(directory, 'model.safetensors'), '')
  for (const shell of ['bash', 'zsh', 'fish'] as const) {
    let text = ''
    vi.spyOn(process.stdout, 'write').mockImplementation((part) => ((text += String(part)), true))
    await run(['completion', shell])
    vi.restoreAllMocks()
    scripts.set(shell, join(directory, `completion.${shell}`))
    writeFileSync(scripts.get(shell)!, text)
  }
})
afterAll(() => rmSync(directory, { recursive: true }))

/** What a shell offers after these words, the last of which is being written. */
function offered(shell: Shell, words: readonly string[]): string[] {
  const script = scripts.get(shell)!
  const programs: Record<Shell, [string, ...string[]]> = {
    bash: [
      'bash',
      '--norc',
      '-c',
      'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ckpt; printf "%s\\n" "${COMPREPLY[@]}"',
      script,
      ...words,
    ],
    // As bashcompinit calls a function of bash.
    zsh: [
      'zsh',
      '-f',
      '-c',
      'source "$0"; f() { emulate -L sh; setopt kshglob noshglob braceexpand; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ckpt; printf "%s\\n" "${COMPREPLY[@]}"; }; setopt ksharrays; f "$@"',
      script,
      ...words,
    ],
    fish: ['fish', '--no-config', '-c', `source ${script}; complete -C "${words.join(' ')}"`],
  }
  const [program, ...args] = programs[shell]
  const { status, stdout, stderr } = spawnSync(program, args, { cwd: directory, encoding: 'utf8', timeout: 60_000 })
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  return (
    stdout
      .split('\n')
      .map((line) => line.split('\t')[0]!)
      // zsh itself leaves out what does not begin with the last word.
      .filter((word) => word !== '' && (shell !== 'zsh' || word.startsWith(words.at(-1)!)))
  )
}

describe.for<Shell>(['bash', 'zsh', 'fish'])('completion in %s', (shell) => {
  it.for<[string[], string[], string[]]>([
    [['ckpt', ''], ['update', 'join', 'serve', 'watch', 'completion'], ['--strategy']],
    [['ckpt', 'wa'], ['watch'], ['update']],
    [['ckpt', 'update', '--stra'], ['--strategy'], ['--engine']],
    [['ckpt', 'update', '--strategy', ''], ['auto', 'broadcast', 'direct', 'p2p'], ['--strategy']],
    [['ckpt', 'join', '--strategy', ''], ['auto', 'p2p'], ['broadcast']],
    [['ckpt', 'update', 'mod'], ['model.safetensors'], ['--engine']],
    [['ckpt', 'completion', ''], ['bash', 'zsh', 'fish'], ['model.safetensors']],
  ])('after $0', ([words, expected, absent], { skip }) => {
    if (spawnSync(shell, ['-c', 'exit 0']).status !== 0) skip(`no ${shell}`)
    const found = offered(shell, words)
    expect(found).toEqual(expect.arrayContaining(expected))
    for (const word of absent) expect(found).not.toContain(word)
  })
})
