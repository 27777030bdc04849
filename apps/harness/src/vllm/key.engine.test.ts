import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { CkptError } from '@ckpt/contract'
import { vllm } from '@ckpt/vllm'
import { expect, it, onTestFinished } from 'vitest'
import { generateModels, LocalRanks, vllmEnvironment, VllmServer } from '@ckpt/testing'
import { noOtherUser } from '../strangers/local.ts'

const NOBODY = 65_534
const environment = await vllmEnvironment()

/** What another user of the machine who has found the engine's port sends to it. */
const ATTACK = `
const [url, key] = process.argv.slice(1)
const call = { endpoints: [{ rank: 0, deviceUuid: 'x', address: 'ipc:///tmp/evil.sock' }], token: 'mine', timeoutMs: 1000, ...(key && { key }) }
fetch(url + '/collective_rpc', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ method: 'ckpt_update', args: [call] }) })
  .then(async (answer) => console.log(JSON.stringify({ status: answer.status, text: await answer.text() })))
`

it('real vLLM takes updates from those who have the key, which its own user finds by itself and others do not', async ({
  skip,
}) => {
  if (environment.missing !== undefined) return skip(environment.missing)
  const { python } = environment
  const models = await generateModels(python, [{ family: 'qwen3', seed: 1 }])
  onTestFinished(() => models[Symbol.dispose]())
  const server = await VllmServer.start({ python, model: models.directories[0]!, loadFormat: 'dummy' })
  onTestFinished(() => server.stop())
  await server.ready(900_000)
  const ranks = await LocalRanks.create(1)
  onTestFinished(() => ranks[Symbol.asyncDispose]())
  await ranks.register('first', models.directories[0]!)
  const prompts = [[5, 6, 7, 8]]
  const before = await server.complete(prompts, 8)

  for (const engineKey of [false, 'not the key of this engine'] as const) {
    const engine = vllm({ url: server.url, parallelSize: 1, engineKey })
    const error: unknown = await ranks.update('first', { engine }).catch((thrown: unknown) => thrown)
    expect(CkptError.is(error, 'ENGINE_UNAUTHORIZED'), String(error)).toBe(true)
    expect((error as Error).message).toMatch(/CKPT_ENGINE_KEY_FILE/)
  }
  if (noOtherUser() === undefined) {
    const as = [
      '--reuid',
      String(NOBODY),
      '--regid',
      String(NOBODY),
      '--clear-groups',
      process.execPath,
      '-e',
      ATTACK,
      server.url,
    ]
    for (const key of [[], ['a key that was guessed']]) {
      const { stdout } = await promisify(execFile)('setpriv', [...as, ...key], { cwd: '/', env: {}, timeout: 60_000 })
      const answer = JSON.parse(stdout) as { status: number; text: string }
      expect(answer.status).toBeGreaterThanOrEqual(400)
      expect(answer.text).toContain('CKPT_ENGINE_KEY')
    }
  }
  expect(await server.complete(prompts, 8)).toEqual(before)

  // Nothing was configured: the engine and this process belong to the same user.
  await ranks.update('first', { engine: vllm({ url: server.url, parallelSize: 1 }) })
  expect(await server.complete(prompts, 8)).not.toEqual(before)
}, 1_800_000)
