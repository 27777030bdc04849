import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ROOT } from '../lib/root.mjs'
import { fixture } from './fixture.ts'
import { pythonLockProblems } from './python-locks.ts'

const HASH = `--hash=sha256:${'0a'.repeat(32)}`

describe('pythonLockProblems', () => {
  it('finds none in this repository, and each of what a lock file, a requirement or an install may lack', () => {
    expect(pythonLockProblems(ROOT)).toEqual([])
    using files = fixture({
      'scripts/python/a.lock': [
        `whole-name==1.0 ; python_version < '3.11' \\\n    ${HASH} \\\n    ${HASH}`,
        'bare==1',
        `short==1 --hash=sha256:${'0'.repeat(63)}`,
        `weak==1 --hash=md5:${'0'.repeat(32)}`,
        `loose>=1 ${HASH}`,
        `pkg @ https://example.org/pkg.whl ${HASH}`,
        '-e git+https://example.org/pkg',
      ].join('\n'),
      'scripts/python/a.txt': '# of these\nWhole_Name==1.0\nwhole.name\nwhole-name==2.0  # newer\nother\n',
      'scripts/a.mjs': [
        `run(python, ['-m', 'pip', 'install', 'x==1'])`,
        `run(python, ['-m', 'pip', 'install', '--require-hashes', '-r', file])`,
        `// unchecked: it is this machine's`,
        `run(python, ['-m', 'pip', 'install', wheel])`,
        '// pip install x',
      ].join('\n'),
      'scripts/b.sh': 'python3 -m pip install --quiet y\nuv pip install z\n',
      '.ci/run': 'pip install z && true\n',
    })
    const again = 'npm run lock:python'
    const without = 'installs Python packages without --require-hashes'
    expect(pythonLockProblems(files.path)).toEqual([
      `a.lock: bare==1 has no SHA-256 of its files: ${again}`,
      `a.lock: short==1 has no SHA-256 of its files: ${again}`,
      `a.lock: weak==1 has no SHA-256 of its files: ${again}`,
      `a.lock: "loose>=1" names no version: ${again}`,
      `a.lock: "pkg @ https://example.org/pkg.whl" names no version: ${again}`,
      `a.lock: "-e git+https://example.org/pkg" names no version: ${again}`,
      `a.txt: whole-name==2.0 is in no lock file: ${again}`,
      `a.txt: other is in no lock file: ${again}`,
      `scripts/a.mjs:1: ${without}: run(python, ['-m', 'pip', 'install', 'x==1'])`,
      `scripts/b.sh:1: ${without}: python3 -m pip install --quiet y`,
      `scripts/b.sh:2: ${without}: uv pip install z`,
      `.ci/run:1: ${without}: pip install z && true`,
    ])
  })
})

describe('environments that our Python packages are installed into', () => {
  // Without build isolation, so that nothing is fetched whose hash nobody knows.
  it.each(['requirements.lock', 'vllm.lock'])('have what builds an editable install: %s', (lock) => {
    const locked = readFileSync(join(ROOT, 'scripts/python', lock), 'utf8')
    for (const project of ['packages/python', 'packages/testing/python']) {
      const text = readFileSync(join(ROOT, project, 'pyproject.toml'), 'utf8')
      const [, required] = /\[build-system\]\s+requires = \[([^\]]*)\]/.exec(text)!
      const names = required!.split(',').map((one) => /[\w-]+/.exec(one)![0])
      expect(names.length).toBeGreaterThan(0)
      for (const name of [...names, 'editables']) expect(locked).toMatch(new RegExp(`^${name}==`, 'm'))
    }
  })
})
