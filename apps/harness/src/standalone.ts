/**
 * Engine workers for somebody else's ranks: `standalone.ts DIRECTORY RANKS` makes a small checkpoint, starts a reference engine worker a
 * rank and prints where all of it is as one line of JSON. Each line on standard input has the engines' bytes compared with the files,
 * answered by a line of JSON. Ends when standard input does.
 */
import { createInterface } from 'node:readline'
import { model } from '@ckpt/models'
import { createHost } from '@ckpt/transport'
import { EngineProcess, generateCheckpoint } from '@ckpt/testing'

const BYTES = 48 * 2 ** 20

const [directory, ranks] = process.argv.slice(2)
using checkpoint = await generateCheckpoint(createHost(), model('qwen3-30b-a3b'), BYTES, 11n, 'standalone')
const engines = Array.from(
  { length: Number(ranks) },
  (_, tpRank) =>
    new EngineProcess({
      kind: 'typescript',
      directory: directory!,
      checkpoint: checkpoint.directory,
      tpRank,
      tpSize: Number(ranks),
    }),
)
try {
  await Promise.all(engines.map((engine) => engine.ready()))
  const { files, bytes, tensors } = checkpoint
  process.stdout.write(`${JSON.stringify({ files, bytes, tensors, sockets: engines.map(({ socket }) => socket) })}\n`)
  for await (const _ of createInterface({ input: process.stdin })) {
    const [verified, health] = await Promise.all([
      Promise.all(engines.map((engine) => engine.verify(files))),
      Promise.all(engines.map((engine) => engine.health())),
    ])
    process.stdout.write(`${JSON.stringify({ verified, health })}\n`)
  }
} finally {
  await Promise.all(engines.map((engine) => engine.process.stop()))
}
