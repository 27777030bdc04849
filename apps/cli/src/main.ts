/** The `ckpt` command. */
import { outliveReaders } from './output.ts'
import { run } from './run.ts'

outliveReaders()
await run(process.argv.slice(2))
