/**
 * Feeds one target: `target-main.ts MODULE SEED SECONDS STATE [INPUT]`. The input that is being tried is always in STATE, so that the parent
 * has it when this process dies or hangs. There is no coverage to go by: an input whose outcome (what `run` returns) has not been seen
 * before joins the corpus.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { mutate, random } from './mutate.ts'

/** What MODULE exports as `fuzz`; `run` throws only what it must not throw. */
interface FuzzTarget {
  readonly name: string
  seeds(): Uint8Array[] | Promise<Uint8Array[]>
  run(input: Uint8Array): unknown
}

const [module, seed, seconds, state, replay] = process.argv.slice(2)
const { fuzz } = (await import(pathToFileURL(module!).href)) as { readonly fuzz: FuzzTarget }
const file = openSync(state!, 'w')
/** Inputs and their bytes that the corpus may hold. */
const CORPUS = 4000
const CORPUS_BYTES = 16 * 2 ** 20
/** Growth that garbage does not explain, in bytes. */
const LEAK = 48 * 2 ** 20

async function attempt(input: Uint8Array): Promise<unknown> {
  ftruncateSync(file, input.length)
  writeSync(file, input, 0, input.length, 0)
  return fuzz.run(input)
}

if (replay !== undefined) {
  console.log(await attempt(readFileSync(replay)))
  process.exit(0)
}

const numbers = random(Number(seed))
const seeds = (await fuzz.seeds()).map((bytes) => Buffer.from(bytes))
const corpus = [...seeds]
let corpusBytes = 0
const seen = new Set<unknown>()
for (const input of seeds) seen.add(await attempt(input))
const until = performance.now() + Number(seconds) * 1000
let runs = 0
let slowest = 0
let told = performance.now()
let warm: number | undefined
let last = told
while (last < until) {
  // Seeds stay likely, however large the corpus grows.
  const base = numbers.below(2) === 0 ? numbers.pick(seeds) : numbers.pick(corpus)
  const input = mutate(base, numbers.pick(corpus), numbers)
  const outcome = await attempt(input)
  runs++
  const now = performance.now()
  slowest = Math.max(slowest, now - last)
  last = now
  if (!seen.has(outcome) && seen.size < CORPUS) {
    seen.add(outcome)
    if (corpusBytes + input.length <= CORPUS_BYTES) {
      corpusBytes += input.length
      corpus.push(Buffer.from(input)) // not the whole of what it was cut from
    }
  }
  if (now - told > 1000) {
    told = now
    process.send?.({ runs, corpus: corpus.length })
    if (warm === undefined && runs > 2000) warm = held()
    await new Promise((resolve) => setImmediate(resolve))
  }
}
closeSync(file)
const grown = warm === undefined ? 0 : held() - warm
if (grown > LEAK) {
  console.error(`LEAK: ${Math.round(grown / 1e6)} MB more than after the first inputs`)
  process.exit(3)
}
console.log(
  `${fuzz.name}: ${runs} inputs, ${seen.size} outcomes, slowest ${slowest.toFixed(0)} ms, memory ${grown >= 0 ? '+' : ''}${(grown / 1e6).toFixed(1)} MB`,
)
process.exit(0)

function held(): number {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external - corpusBytes
}
