/** Words of a command. */
export interface CommandWords {
  readonly name: string
  readonly description: string
  readonly options: readonly OptionWords[]
  /** Values of its argument; none: files. */
  readonly choices: readonly string[]
}

export interface OptionWords {
  /** Long form, with dashes. */
  readonly name: string
  readonly description: string
  readonly choices: readonly string[]
  readonly takesValue: boolean
}

/** Options that every command has. */
const HELP = { name: '--help', description: 'print the help', choices: [], takesValue: false } as const

/** Returns a script for bash: nothing is run while it completes. */
export function bashCompletion(commands: readonly CommandWords[]): string {
  const cases = commands.map((command) => {
    const options = [...command.options, HELP]
    const values = options.map((option) => {
      if (!option.takesValue) return ''
      const words = option.choices.length > 0 ? `choices=${quoted(option.choices.join(' '))}` : 'files=1'
      return `        ${option.name}) ${words}; return ;;\n`
    })
    const argument = command.choices.length > 0 ? `choices=${quoted(command.choices.join(' '))}` : 'files=1'
    return [
      `    ${command.name})`,
      '      case $previous in',
      `${values.join('')}      esac`,
      `      if [[ $current == -* ]]; then choices=${quoted(options.map(({ name }) => name).join(' '))}; else ${argument}; fi ;;`,
    ].join('\n')
  })
  return `# Completion of ckpt for bash: source <(ckpt completion bash)
_ckpt_words() {
  case $command in
${cases.join('\n')}
    *) choices=${quoted([...commands.map(({ name }) => name), '--help', '--version'].join(' '))} ;;
  esac
}

_ckpt() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD-1]} command= choices= files=
  [ "$COMP_CWORD" -gt 1 ] && command=\${COMP_WORDS[1]}
  _ckpt_words
  if [ -n "$files" ]; then COMPREPLY=( $(compgen -f -- "$current") ); else COMPREPLY=( $(compgen -W "$choices" -- "$current") ); fi
}

complete -o filenames -F _ckpt ckpt
`
}

/** Returns a script for zsh, which completes as bash does. */
export function zshCompletion(commands: readonly CommandWords[]): string {
  const script = bashCompletion(commands).split('\n').slice(1).join('\n')
  return `#compdef ckpt
# Completion of ckpt for zsh: source <(ckpt completion zsh)
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit -u
bashcompinit
${script}`
}

/** Returns a script for fish, with descriptions. */
export function fishCompletion(commands: readonly CommandWords[]): string {
  const lines = commands.flatMap((command) => {
    const inside = `-n '__fish_seen_subcommand_from ${command.name}'`
    const options = [...command.options, HELP].map(({ name, description, choices, takesValue }) => {
      const value = !takesValue ? '' : choices.length > 0 ? ` -x -a ${quoted(choices.join(' '))}` : ' -r -F'
      return `complete -c ckpt ${inside} -l ${name.slice(2)}${value} -d ${quoted(firstSentence(description))}`
    })
    const argument = command.choices.length > 0 ? [`complete -c ckpt ${inside} -f -a ${quoted(command.choices.join(' '))}`] : []
    return [
      `complete -c ckpt -n __fish_use_subcommand -f -a ${command.name} -d ${quoted(firstSentence(command.description))}`,
      ...options,
      ...argument,
    ]
  })
  return `# Completion of ckpt for fish: ckpt completion fish | source\n${lines.join('\n')}\n`
}

function firstSentence(text: string): string {
  return text.split(/[:;(,]/)[0]!.trim()
}

/** A word of any of these shells. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
