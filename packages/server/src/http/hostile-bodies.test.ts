import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError, tensorTable } from '@ckpt/contract'
import { writeFile } from '@ckpt/safetensors'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { manifestOf } from '@ckpt/core'
import { readMetas, writeMetas } from '@ckpt/core'
import { ParameterServer } from '@ckpt/core'
import { serveHttp, type HttpServer } from './serve.ts'

const deep = (depth: number) => `${'['.repeat(depth)}${']'.repeat(depth)}`
/** JSON texts to insert where something else is expected. */
const HOSTILE: readonly string[] = [
  ...[
    'null',
    'true',
    '-1',
    '0',
    '1.5',
    '1e400',
    '9007199254740993',
    '""',
    '"__proto__"',
    '"constructor"',
    '[]',
    '{}',
    '[null]',
  ],
  ...[
    '{"toString": null}',
    '[{"toString": null}]',
    '{"toString": null, "valueOf": null}',
    '{"length": 4294967295}',
    '{"toJSON": 1}',
  ],
  ...['{"__proto__": {"x": 1}}', '{"constructor": {"prototype": {"x": 1}}}', '{"__proto__": null}', '"\\u0000"', '"\\ud800"'],
  deep(50_000),
  `[${'0,'.repeat(100_000)}0]`,
  `"${'x'.repeat(200_000)}"`,
]

/** `value` as JSON with the text `hostile` inserted at each place in turn. */
function* spoiled(value: unknown, hostile: string): Generator<string> {
  yield hostile
  if (typeof value !== 'object' || value === null) return
  const keys = Object.keys(value)
  const write = (key: string, text: string) => {
    const parts = keys.map((one) => {
      const content = one === key ? text : JSON.stringify((value as Record<string, unknown>)[one])
      return Array.isArray(value) ? content : `${JSON.stringify(one)}:${content}`
    })
    return Array.isArray(value) ? `[${parts.join(',')}]` : `{${parts.join(',')}}`
  }
  for (const key of keys) {
    for (const text of spoiled((value as Record<string, unknown>)[key], hostile)) yield write(key, text)
  }
  if (!Array.isArray(value)) yield `{"__proto__":${hostile},${JSON.stringify(value).slice(1)}`
}

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ckpt-hostile-'))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

describe('hostile JSON', () => {
  let server: ParameterServer
  let http: HttpServer
  beforeAll(async () => {
    await writeFile(join(directory, 'a.safetensors'), [{ name: 'w', dtype: 'U8', shape: [1], data: new Uint8Array(1) }])
    server = await ParameterServer.create({ rank: 0, worldSize: 1, timeoutMs: 500 })
    http = await serveHttp(server, { root: directory })
  })
  afterAll(async () => {
    await http.close()
    await server.close()
  })
  const post = async (path: string, body: string) => {
    const answer = await fetch(`${http.address}/v1/checkpoints/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
    return { status: answer.status, text: await answer.text() }
  }

  it('in a body is refused by status, wherever it stands', async () => {
    for (const hostile of HOSTILE) {
      for (const [path, body] of [
        ['a/files', { files: [join(directory, 'none.safetensors')] }],
        ['a/update', { ranks: [0], update_url: 'http://127.0.0.1:9/', inference_group_ranks: [0], timeout: 1, uds: '/x' }],
      ] as const) {
        for (const text of spoiled(body, hostile)) {
          const { status, text: answer } = await post(path, text)
          expect(
            [...(text === '{"files":[]}' ? [200] : []), 400, 404, 409, 413, 415, 422, 501],
            `${path} ${text.slice(0, 200)}: ${answer.slice(0, 300)}`,
          ).toContain(status)
          expect(answer).not.toMatch(/TypeError|RangeError|node_modules/)
        }
      }
    }
    expect(({} as Record<string, unknown>)['x']).toBeUndefined()
    expect((await post('b/files', JSON.stringify({ files: [join(directory, 'a.safetensors')] }))).status).toBe(200)
  })

  it('in saved metas is refused by field, wherever it stands', async () => {
    const path = join(directory, 'metas.json')
    const tensors = tensorTable([{ name: 'w', dtype: 'BF16', shape: [4, 2], bytes: 16, segment: 0, offset: 0 }])
    const rank = {
      rank: 0,
      host: 'h',
      deviceUuid: 'u',
      segments: [{ kind: 'anonymous' as const, bytes: 64 }],
      tensors,
      digest: '',
    }
    await writeMetas(path, { manifest: manifestOf('a', [rank]), access: [] })
    const saved = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
    const withAccess = {
      ...saved,
      access: [
        {
          rank: 0,
          points: [
            {
              devices: [],
              endpoint: { kind: 'tcp', id: 'i', addresses: ['h:1'], secret: null },
              regions: [{ key: 'k', bytes: 64 }],
            },
          ],
        },
      ],
    }
    for (const hostile of HOSTILE) {
      for (const text of [...spoiled(saved, hostile), ...spoiled(withAccess, hostile)]) {
        writeFileSync(path, text)
        const error: unknown = await readMetas(path).then(
          () => undefined,
          (thrown: unknown) => thrown,
        )
        if (error === undefined) continue
        expect(
          CkptError.is(error, 'METAS_MALFORMED'),
          `${text.slice(0, 300)}: ${error instanceof Error ? error.message : typeof error}`,
        ).toBe(true)
      }
    }
    for (const file of [directory, '/dev/zero', join(directory, 'none')]) {
      await expect(readMetas(file)).rejects.toMatchObject({ code: 'METAS_MALFORMED', fields: { file } })
    }
    expect(({} as Record<string, unknown>)['x']).toBeUndefined()
  })
})
