import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CkptError } from '@ckpt/contract'
import { ParameterServer } from '@ckpt/core'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { HistoryFile } from './history-file.ts'

describe('HistoryFile', () => {
  let directory: string
  let path: string
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ckpt-history-'))
    path = join(directory, 'history.json')
  })
  afterEach(() => rmSync(directory, { recursive: true, force: true }))

  /** One process: keeps its history in the file while `work` runs. */
  async function keeping(work: (server: ParameterServer) => void): Promise<readonly string[]> {
    await using server = await ParameterServer.create({ rank: 0, worldSize: 1, rendezvous: 'tcp://127.0.0.1:0' })
    const file = new HistoryFile(path)
    await file.keep(server.activity)
    work(server)
    await file.settled()
    return server.activity.history.map(({ version }) => version)
  }
  const fail =
    (name: string) =>
    ({ activity }: ParameterServer) => {
      activity.began(name, name, 'broadcast')
      activity.failed(new CkptError('TIMEOUT', 'it took too long'))
    }

  it('keeps updates across processes, newest first, at most 50', async () => {
    expect(await keeping(fail('a'))).toEqual(['a'])
    expect(await keeping(fail('b'))).toEqual(['b', 'a'])
    const sixty = await keeping((server) => Array.from({ length: 60 }, (_, index) => fail(`c${index}`)(server)))
    expect([sixty.length, sixty[0]]).toEqual([50, 'c59'])
    expect(await keeping(() => undefined)).toEqual(sixty)
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })

  it('refuses and keeps a file of something else, and a place that it cannot write', async () => {
    for (const contents of ['not JSON', '{"schema":1,"updates":[{"checkpoint":1}]}', '{"schema":2,"updates":[]}']) {
      writeFileSync(path, contents)
      const refused = await keeping(() => undefined).catch((error: unknown) => error)
      expect(refused).toMatchObject({ code: 'INVALID_ARGUMENT', fields: { field: 'history', file: path } })
      expect(readFileSync(path, 'utf8')).toBe(contents)
    }
    path = join(directory, 'missing', 'history.json')
    await expect(keeping(() => undefined)).rejects.toThrow(/history.json cannot be written: ENOENT/)
  })
})
