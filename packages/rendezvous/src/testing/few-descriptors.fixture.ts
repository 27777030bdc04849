// few-descriptors.fixture.ts SPARE LIMIT PORT: leaves SPARE open files below LIMIT, then lets two ranks join and reports the
// results; for descriptors.test.ts.
import { openSync, readdirSync } from 'node:fs'
import { CkptError } from '@ckpt/contract'
import { joinRendezvous } from '../index.ts'

const [spare, limit, port] = process.argv.slice(2).map(Number) as [number, number, number]
const open = readdirSync('/proc/self/fd').length - 1
for (let taken = open; taken < limit - spare; taken++) openSync('/dev/null', 'r')
const joined = [0, 1].map((rank) =>
  joinRendezvous({ rank, worldSize: 2, address: `tcp://127.0.0.1:${port}`, token: 'a token of this test', timeoutMs: 20_000 }),
)
try {
  await Promise.all(joined)
  process.stdout.write('joined\n')
} catch (error) {
  process.stdout.write(CkptError.is(error) ? `${error.code} ${error.message}\n` : `no CkptError: ${String(error)}\n`)
}
process.exit(0)
