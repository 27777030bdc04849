import type { Command, Option, OptionValueSource } from 'commander'
import type { ConfigFile } from './config-file.ts'
import { COMMON, configSchema, configurable, sharedWith } from './config-schema.ts'

/** Options of which one is expected: one that was given more explicitly leaves the others out. */
const ALTERNATIVES = [
  ['engine', 'engineControl'],
  ['apiKey', 'apiKeyFile'],
  ['metas', 'coordinator'],
  ['from', 'checkpoint'],
  ['device', 'backend'],
] as const

/** Sources of options, the weakest first. */
const SOURCES: readonly (OptionValueSource | undefined)[] = [undefined, 'default', 'config', 'env', 'cli']

type Section = Readonly<Record<string, unknown>> | null | undefined

/** Checks a file for all commands. @throws UsageError naming file, line and key of the first mistake */
export function checkConfig(program: Command, file: ConfigFile): Readonly<Record<string, Section>> {
  const parsed = configSchema(program).safeParse(file.content)
  if (parsed.success) return (parsed.data ?? {}) as Readonly<Record<string, Section>>
  const [issue] = parsed.error.issues
  const path = issue!.path.map(String)
  if (issue!.code !== 'unrecognized_keys') throw file.mistake(path, issue!.message)
  const known = path.length === 0 ? `expected ${COMMON} or the name of a command` : '`ckpt config` prints all keys'
  throw file.mistake([...path, issue.keys[0]!], `unknown key; ${known}`)
}

/** Gives a command the options of a file, where neither the command line nor a variable of the environment sets them. */
export function applyConfig(program: Command, command: Command, file: ConfigFile): void {
  const content = checkConfig(program, file)
  const shared = sharedWith(program, command)
  const given = [
    [shared, content[COMMON]],
    [configurable(command), content[command.name()]],
  ] as const
  for (const [options, section] of given) {
    for (const [key, value] of Object.entries(section ?? {})) {
      const option = options.get(key)
      if (option === undefined) continue
      command.setOptionValueWithSource(option.attributeName(), optionValue(option, value), 'config')
    }
  }
}

/** Leaves out the weaker of alternatives, such as an engine from the file if the command line names another one. */
export function chooseAlternatives(command: Command): void {
  const positional = command.args.length > 0 && command.registeredArguments.length > 0
  for (const group of ALTERNATIVES) {
    const strengths = group.map((name) => SOURCES.indexOf(command.getOptionValueSource(name)))
    if (positional && group[0] === 'from') strengths.push(SOURCES.indexOf('cli'))
    const strongest = Math.max(...strengths)
    for (const [index, name] of group.entries()) {
      const strength = strengths[index]!
      if (strength < strongest && strength > SOURCES.indexOf('default'))
        command.setOptionValueWithSource(name, undefined, 'default')
    }
  }
}

function optionValue({ parseArg, required, optional, variadic }: Option, value: unknown): unknown {
  if (!required && !optional) return value
  const parse = (one: unknown): unknown => {
    const text = String(one)
    return parseArg === undefined ? text : parseArg(text, undefined)
  }
  if (!variadic) return parse(value)
  const values: unknown[] = Array.isArray(value) ? value : [value]
  return values.flatMap(parse)
}
