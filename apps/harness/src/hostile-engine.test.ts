import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { MESSAGE_FIELDS, encodeMessage } from '@ckpt/worker-link/protocol'
import { readHeader, writeFile } from '@ckpt/safetensors'
import { createHost } from '@ckpt/transport'
import { expect, it, onTestFinished } from 'vitest'
import { KeptRing, Parameters, Random, runUpdateSession, type Spawned, spawnSource } from '@ckpt/testing'
import { lie } from './hostile/lies.ts'
import { openedForWriting, type Asked, type Holds, type Outcome } from './hostile/trials.ts'

const LIES = 500
/** Number of updates between honest ones. */
const HONEST_EVERY = 25
/** A silent worker is given up after this time. */
const SILENT_MS = 1000
/** An update that takes this much longer counts as hanging. */
const HANGS_MS = 30_000
/** Places that a rank writes to: shared memory, and names of its threads. */
const ALLOWED = /^\/(dev\/shm\/|memfd:ckpt|proc\/\d+\/task\/\d+\/comm$)/
const TRACED = 'open,openat,openat2,creat,access,faccessat,faccessat2'

/** A rank sends this after a greeting that it refuses, and expects no answer. */
const UNANSWERED = ['error']
/** Case in which the worker sends a false error in place of `ok`. */
const FAILING = 'failing bucket'

/** Every answer of a worker, with every field in its schema: the test has to falsify each of them. */
const places = [
  ...MESSAGE_FIELDS.worker['hello']!.map((field) => ({ asked: 'hello', field })),
  ...Object.keys(MESSAGE_FIELDS.rank)
    .filter((type) => !UNANSWERED.includes(type))
    .flatMap((asked) => MESSAGE_FIELDS.worker['ok']!.map((field) => ({ asked, field }))),
  ...MESSAGE_FIELDS.worker['error']!.map((field) => ({ asked: FAILING, field })),
]

type Place = (typeof places)[number]

it(
  `${LIES} random answers of a hostile engine: typed errors, and nothing else comes of them`,
  { timeout: 240_000 },
  async ({ skip }) => {
    if (spawnSync('strace', ['-V']).status !== 0) skip('there is no strace')
    expect(Object.keys(MESSAGE_FIELDS.worker).sort()).toEqual(['error', 'hello', 'ok'])
    const directory = mkdtempSync(join(tmpdir(), 'ckpt-hostile-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const file = join(directory, 'a.safetensors')
    const names = [0, 1].flatMap((i) => ['q', 'k', 'v', 'o'].map((part) => `model.layers.${i}.self_attn.${part}_proj.weight`))
    await writeFile(
      file,
      names.map((name, i) => ({ name, dtype: 'U8' as const, shape: [16, 16], data: new Uint8Array(256).fill(i + 1) })),
    )
    const victim = join(directory, 'victim')
    writeFileSync(victim, 'untouched')

    const trace = join(directory, 'trace')
    const rank = spawnSource('rank', new URL('./hostile/rank.child.ts', import.meta.url), [file], {
      through: ['strace', '-f', '--seccomp-bpf', '-y', '-o', trace, '-e', `trace=${TRACED}`],
    })
    onTestFinished(() => rank.stop('SIGKILL'))
    await next(rank, 'ready')

    const host = createHost()
    const { tensors } = await readHeader(file)
    const parameters = await Parameters.allocate(
      host,
      tensors.map((tensor) => ({ ...tensor, bytes: tensor.end - tensor.begin })),
      { tpRank: 0, tpSize: 1, threads: 1 },
    )
    onTestFinished(() => parameters.close())
    const rings = new KeptRing(host)
    const random = new Random(15)
    const paths = [
      victim,
      `/proc/${rank.child.pid}/fd/0`,
      `/proc/${process.pid}/cwd`,
      parameters.storages[0]!.kind === 'file' ? parameters.storages[0]!.path : '',
    ]

    /** One update, whose engine falsifies one place or none; returns how often it did. */
    const update = async (trial: number, at?: Place): Promise<Outcome & { lies: number }> => {
      // Only a rank that may not write into parameters sends all of them, and only a rank whose update failed aborts it.
      const fails = at?.asked === 'abort' || at?.asked === FAILING
      const staged = fails || at?.asked === 'bucket'
      // Only a rank that does not know the answer yet asks for a rehearsal, and only one that prepares leaves.
      const rehearses = at?.asked === 'rehearse'
      const known = !staged && !rehearses && at?.asked !== 'routes' ? true : !rehearses && random.pick([true, false])
      const strategy = (known || rehearses) && at?.asked !== 'routes' ? 'direct' : random.pick(['direct', 'broadcast'] as const)
      const leaves = at?.asked === 'leave'
      const way = { strategy, fresh: rehearses || leaves, prepare: leaves }
      ask(rank, { kind: 'update', version: `v${trial}`, timeoutMs: SILENT_MS, ...way })
      const started = await next<{ address: string; token: string }>(rank, 'start')
      // A recording that the rank does not know yet, so that it asks for everything.
      parameters.renewRecording()
      let lies = 0
      const session = runUpdateSession({
        ...{ host, rings, parameters, address: started.address, token: started.token, device: '' },
        recorded: known,
        shared: !staged,
        rehearses,
        timeoutMs: 3 * SILENT_MS,
        before(message) {
          if (fails && message.type === 'bucket') throw new Error('an honest failure')
        },
        tamper(message, asked) {
          const place = message.type === 'error' && at?.asked === FAILING ? FAILING : (asked?.type ?? message.type)
          if (at?.asked !== place) return [encodeMessage(message)]
          lies++
          return lie(random, message, at.field, paths)
        },
      })
      const outcome = await next<Outcome>(rank, 'ended')
      await session
      return { ...outcome, lies }
    }
    const holds = async (name: string): Promise<Holds> => {
      ask(rank, { kind: 'mark', name })
      return next<Holds>(rank, 'holds')
    }

    for (let i = 0; i < 5; i++) expect((await update(i)).code).toBeUndefined()
    await holds('begins')
    const told = new Map<Place, number>()
    const codes: Record<string, number> = {}
    const wrong: string[] = []
    let warm: Holds | undefined
    let trial = 0
    for (let lies = 0; lies < LIES; trial++) {
      const at = places[trial % places.length]!
      const outcome = await update(trial, at)
      if (outcome.lies > 0) {
        lies++
        told.set(at, (told.get(at) ?? 0) + 1)
      }
      const code = outcome.code ?? `went well, ${String(outcome.strategy)}`
      codes[code] = (codes[code] ?? 0) + 1
      // All errors are our own: no falsified value is detected by a failing statement.
      const raw = (outcome.causes ?? []).filter((name) => !['CkptError', 'Error', 'ZodError', 'AbortError'].includes(name))
      const named = outcome.code === undefined || /rank 0|engine|worker|storage/.test(outcome.message ?? '')
      if (
        outcome.code === 'none' ||
        outcome.code === 'RENDEZVOUS_PROTOCOL' ||
        (raw.length > 0 && !/not MessagePack/.test(outcome.message ?? '')) ||
        !named
      ) {
        wrong.push(`${at.asked}.${at.field}: ${outcome.code}: ${outcome.causes?.join(' < ')}: ${outcome.stack}`)
      }
      if (trial % HONEST_EVERY === 0) {
        const honest = await update(trial)
        if (honest.code !== undefined || honest.verified !== 'bytes')
          wrong.push(`an honest update after it: ${JSON.stringify(honest)}`)
        expect(await parameters.verify([file])).toMatchObject({ verified: true })
        await parameters.poison()
        if (trial >= LIES / 3) warm ??= await holds('is-warm')
      }
    }
    const after = await holds('ends')
    console.log(`${LIES} lies in ${trial} updates: ${JSON.stringify(codes)}; ${JSON.stringify({ warm, after })}`)
    expect(wrong).toEqual([])
    // Every message, every field.
    expect(places.filter((place) => !told.has(place))).toEqual([])
    expect(after.files).toBeLessThanOrEqual(warm!.files + 2)
    expect(after.shared).toBeLessThanOrEqual(warm!.shared + 2)
    expect(after.residentBytes - warm!.residentBytes).toBeLessThan(96 * 2 ** 20)
    expect(readFileSync(victim, 'latin1')).toBe('untouched')
    await rank.stop()
    const written = openedForWriting(readFileSync(trace, 'latin1'))
    expect(written.length).toBeGreaterThan(10)
    expect(written.filter((path) => !ALLOWED.test(path))).toEqual([])
  },
)

function ask({ child }: Spawned, asked: Asked): void {
  child.send(asked)
}

/** The rank's next message of this kind. */
function next<T>({ child, stderr }: Spawned, kind: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const finish = (error?: Error) => {
      clearTimeout(timer)
      child.off('message', take).off('exit', ended)
      if (error) reject(error)
    }
    const take = (message: unknown) => {
      const { kind: came } = message as { kind: string }
      if (came === kind) resolve(message as T)
      finish(came === kind ? undefined : new Error(`the rank said ${JSON.stringify(message)}, not ${kind}`))
    }
    const ended = () => finish(new Error(`the rank ended: ${stderr()}`))
    const timer = setTimeout(() => finish(new Error(`the rank hangs: no ${kind} for ${HANGS_MS} ms`)), HANGS_MS)
    child.on('message', take).once('exit', ended)
  })
}
