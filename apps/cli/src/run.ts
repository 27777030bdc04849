import { CkptError } from '@ckpt/contract'
import { Command, CommanderError, Option } from 'commander'
import manifest from '../package.json' with { type: 'json' }
import { applyConfig, chooseAlternatives } from './config/apply-config.ts'
import { readConfigFile } from './config/config-file.ts'
import { sections } from './config/config-schema.ts'
import { addCompat } from './commands/compat.ts'
import { addCompletion } from './commands/completion.ts'
import { addConfig } from './commands/config.ts'
import { addDoctor } from './commands/doctor.ts'
import { addJoin } from './commands/join.ts'
import { addLaunch } from './commands/launch.ts'
import { addPlan } from './commands/plan.ts'
import { addStatus } from './commands/status.ts'
import { addServe } from './commands/serve.ts'
import { addUpdate } from './commands/update.ts'
import { addWatch } from './commands/watch.ts'
import { checkBundle } from './doctor/bundle.ts'
import { UsageError, USAGE_STATUS } from './usage.ts'

/** Creates the program with all its commands. */
export function createProgram(): Command {
  const program = new Command('ckpt')
    .description('Updates the weights of running LLM inference engines in place.')
    .version(manifest.version, '-V, --version', 'print the version')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(`ckpt: ${inOneLine(text)}\n`) })
  addLaunch(program)
  addUpdate(program)
  addPlan(program)
  addStatus(program)
  addServe(program)
  addJoin(program)
  addDoctor(program)
  addCompat(program)
  addWatch(program)
  addConfig(program)
  addCompletion(program)
  for (const command of sections(program)) command.addOption(configOption())
  program.hook('preSubcommand', (_, command) => {
    if (!sections(program).includes(command)) return
    const file = readConfigFile(configFileIn(program.args.slice(1)) ?? nonEmpty(process.env['CKPT_CONFIG']))
    if (file !== undefined) applyConfig(program, command, file)
  })
  program.hook('preAction', (_, command) => chooseAlternatives(command))
  // The doctor reports more about a damaged bundle.
  program.hook('preAction', (_, command) => {
    if (command.name() !== 'doctor') checkBundle(process.argv[1]!)
  })
  return program
}

/** Runs a command line; `arguments_` come after the program's name. Sets the exit status. */
export async function run(arguments_: readonly string[]): Promise<void> {
  const program = createProgram()
  try {
    await program.parseAsync(arguments_, { from: 'user' })
  } catch (error) {
    process.exitCode ||= statusOf(error)
    // Commander has printed its message, the help, or the version.
    if (!(error instanceof CommanderError)) process.stderr.write(failureText(error))
  }
}

function configOption(): Option {
  return new Option(
    '--config <file>',
    'file with options (default: CKPT_CONFIG, otherwise ckpt.yaml here; schema: ckpt config)',
  )
}

/** Returns the file that a command line names before it is parsed. */
function configFileIn(words: readonly string[]): string | undefined {
  const end = words.indexOf('--')
  const own = end === -1 ? words : words.slice(0, end)
  const at = own.findLastIndex((word) => word === '--config' || word.startsWith('--config='))
  if (at === -1) return undefined
  return own[at] === '--config' ? own[at + 1] : own[at]!.slice('--config='.length)
}

const nonEmpty = (text: string | undefined): string | undefined => (text === '' ? undefined : text)

function inOneLine(message: string): string {
  return message
    .replace(/^error: /, '')
    .trim()
    .replaceAll('\n', ' ')
}

function statusOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE_STATUS
  return error instanceof UsageError ? USAGE_STATUS : 1
}

/** Describes a failure in lines, with a stack only if it is a defect. */
function failureText(error: unknown): string {
  if (error instanceof UsageError) return `ckpt: ${error.message}\n`
  if (!CkptError.is(error)) return `ckpt: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`
  const lines = [`ckpt: ${error.code}: ${error.message}`]
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) lines.push(`  because: ${cause.message}`)
  const { traceback, dirty, rolledBack } = error.fields
  if (Array.isArray(dirty))
    lines.push(`  engine workers of ranks ${dirty.join(', ')} hold parts of it; the next update repairs them`)
  if (rolledBack !== undefined) lines.push(`  version ${JSON.stringify(rolledBack)} has been restored`)
  if (traceback !== undefined) lines.push(traceback)
  return `${lines.join('\n')}\n`
}
