import { InvalidArgumentError, type Command, type Option } from 'commander'
import { z } from 'zod'
import { smallestOf } from '../sizes.ts'

/** Section with options of all commands that update engines. */
export const COMMON = 'common'
/** Commands that take options of the common section. */
const UPDATING: ReadonlySet<string> = new Set(['update', 'join', 'serve', 'watch', 'status'])
/** Commands without a section: they do nothing that options would change from run to run. */
const WITHOUT: ReadonlySet<string> = new Set(['config', 'completion', 'help'])

/** Returns the options of a command that a file can have, by key. */
export function configurable(command: Command): ReadonlyMap<string, Option> {
  const options = command.options.filter(({ negate, long }) => !negate && long !== '--config')
  return new Map(options.map((option) => [keyOf(option), option]))
}

/** Returns the options that several updating commands have and that mean the same in each, by key. */
export function commonOptions(program: Command): ReadonlyMap<string, Option> {
  const found = new Map<string, Option>()
  const shared = new Set<string>()
  const different = new Set<string>()
  for (const command of program.commands.filter((one) => UPDATING.has(one.name()))) {
    for (const [key, option] of configurable(command)) {
      const before = found.get(key)
      if (before === undefined) found.set(key, option)
      else (signature(before) === signature(option) ? shared : different).add(key)
    }
  }
  return new Map([...found].filter(([key]) => shared.has(key) && !different.has(key)))
}

/** Returns the common options that a command has. */
export function sharedWith(program: Command, command: Command): ReadonlyMap<string, Option> {
  const own = configurable(command)
  return new Map([...(UPDATING.has(command.name()) ? commonOptions(program) : [])].filter(([key]) => own.has(key)))
}

/** Returns the commands that may have a section. */
export function sections(program: Command): readonly Command[] {
  return program.commands.filter((command) => !WITHOUT.has(command.name()))
}

/** Returns the schema of the file: a section of common options, and one for each command. */
export function configSchema(program: Command): z.ZodType<Readonly<Record<string, unknown>> | null> {
  const section = (options: ReadonlyMap<string, Option>) =>
    z
      .strictObject(
        Object.fromEntries(
          [...options].map(([key, option]) => [key, valueSchema(option).describe(option.description).optional()]),
        ),
        { error: objectError },
      )
      .nullish()
  const commands = sections(program).map((command) => [
    command.name(),
    section(configurable(command)).describe(`options of \`ckpt ${command.name()}\`: ${command.description()}`),
  ])
  const common = section(commonOptions(program)).describe(
    `options that several of the commands ${[...UPDATING].join(', ')} have; a command's own section wins`,
  )
  return z.strictObject({ [COMMON]: common, ...(Object.fromEntries(commands) as object) }, { error: objectError }).nullable()
}

/** Schema for the value of an option; texts of errors say what is expected. */
function valueSchema(option: Option): z.ZodType {
  const { required, optional, variadic } = option
  if (!required && !optional) return z.boolean({ error: 'expected true or false' })
  const single = singleSchema(option)
  return variadic
    ? z.union([single, z.array(single).min(1)], { error: `expected a value or a list; ${hintOf(single)}` })
    : single
}

function singleSchema({ argChoices, parseArg }: Option): z.ZodType {
  if (argChoices !== undefined) {
    return z.enum(argChoices as [string, ...string[]], { error: `expected one of ${argChoices.join(', ')}` })
  }
  const minimum = parseArg === undefined ? undefined : smallestOf(parseArg)
  if (minimum !== undefined) {
    const error = `expected a whole number of at least ${minimum}`
    return z.int({ error }).min(minimum, { error })
  }
  const text = z.union([z.string().min(1), z.number()], { error: 'expected text' })
  if (parseArg === undefined) return text
  return text.superRefine((value, context) => {
    try {
      parseArg(String(value), undefined)
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error
      context.addIssue({ code: 'custom', message: error.message })
    }
  })
}

function hintOf(schema: z.ZodType): string {
  return schema.safeParse(undefined).error?.issues[0]?.message ?? ''
}

/** Names an unknown key; anything else has its own text. */
const objectError: z.core.$ZodErrorMap = (issue) =>
  issue.code === 'unrecognized_keys' ? 'unknown key' : 'expected keys and values'

/** Key of an option in the file: its long name without dashes. */
function keyOf({ long }: Option): string {
  return (long ?? '').replace(/^--/, '')
}

function signature({ flags, argChoices }: Option): string {
  return JSON.stringify([flags, argChoices])
}
