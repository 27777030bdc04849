/** The `ckpt` command. */
import { CkptError } from '@ckpt/contract'
import { Command } from 'commander'
import { addDoctor } from './commands/doctor.ts'
import { addJoin } from './commands/join.ts'
import { addLaunch } from './commands/launch.ts'
import { addUpdate } from './commands/update.ts'

const program = new Command('ckpt')
  .description('Updates the weights of running LLM inference engines in place.')
  .showHelpAfterError()
  .enablePositionalOptions()
addLaunch(program)
addUpdate(program)
addJoin(program)
addDoctor(program)

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode ||= 1
  if (CkptError.is(error)) {
    process.stderr.write(`ckpt: ${error.code}: ${error.message}\n`)
    for (let cause = error.cause; cause instanceof Error; cause = cause.cause)
      process.stderr.write(`  because: ${cause.message}\n`)
    const { traceback } = error.fields
    if (traceback !== undefined) process.stderr.write(`${traceback}\n`)
  } else process.stderr.write(`ckpt: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
}
