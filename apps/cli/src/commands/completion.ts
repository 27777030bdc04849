import { Argument, type Command } from 'commander'
import { bashCompletion, fishCompletion, zshCompletion, type CommandWords } from '../completion/scripts.ts'

const SHELLS = { bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion } as const

/** Adds `ckpt completion`. */
export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print a script that completes commands, options and their values: source <(ckpt completion bash)')
    .addArgument(new Argument('<shell>', 'your shell').choices(Object.keys(SHELLS)))
    .action((shell: keyof typeof SHELLS) => {
      process.stdout.write(SHELLS[shell](wordsOf(program)))
    })
}

function wordsOf(program: Command): CommandWords[] {
  const words = program.commands.map((command) => ({
    name: command.name(),
    description: command.description(),
    options: command.options.map(({ long, description, argChoices = [], required, optional }) => ({
      name: long!,
      description,
      choices: argChoices,
      takesValue: required || optional,
    })),
    choices: command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices),
  }))
  return [
    ...words,
    { name: 'help', description: 'print the help of a command', options: [], choices: words.map(({ name }) => name) },
  ]
}
