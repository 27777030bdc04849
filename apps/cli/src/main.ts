/** The `ckpt` command. */
import { CkptError } from '@ckpt/contract'
import { Command } from 'commander'
import { addCompat } from './commands/compat.ts'
import { addDoctor } from './commands/doctor.ts'
import { addJoin } from './commands/join.ts'
import { addLaunch } from './commands/launch.ts'
import { addPlan } from './commands/plan.ts'
import { addStatus } from './commands/status.ts'
import { addServe } from './commands/serve.ts'
import { addUpdate } from './commands/update.ts'
import { checkBundle } from './doctor/bundle.ts'
import { outliveReaders } from './output.ts'

outliveReaders()
const program = new Command('ckpt')
  .description('Updates the weights of running LLM inference engines in place.')
  .showHelpAfterError()
  .enablePositionalOptions()
addLaunch(program)
addUpdate(program)
addPlan(program)
addStatus(program)
addServe(program)
addJoin(program)
addDoctor(program)
addCompat(program)
// The doctor reports more about a damaged bundle.
program.hook('preAction', (_, command) => {
  if (command.name() !== 'doctor') checkBundle(process.argv[1]!)
})

try {
  await program.parseAsync()
} catch (error) {
  process.exitCode ||= 1
  if (CkptError.is(error)) {
    process.stderr.write(`ckpt: ${error.code}: ${error.message}\n`)
    for (let cause = error.cause; cause instanceof Error; cause = cause.cause)
      process.stderr.write(`  because: ${cause.message}\n`)
    const { traceback, dirty, rolledBack } = error.fields
    if (Array.isArray(dirty))
      process.stderr.write(`  engine workers of ranks ${dirty.join(', ')} hold parts of it; the next update repairs them\n`)
    if (rolledBack !== undefined) process.stderr.write(`  version ${JSON.stringify(rolledBack)} has been restored\n`)
    if (traceback !== undefined) process.stderr.write(`${traceback}\n`)
  } else process.stderr.write(`ckpt: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
}
