import { readFileSync } from 'node:fs'
import { Option, type Command } from 'commander'
import { UsageError } from '../usage.ts'
import { userPath } from '../user-path.ts'
import type { EngineChoice } from './engine-kinds.ts'

/** What an engine behind a key or TLS requires. */
export interface AccessOptions {
  readonly apiKey?: string
  readonly apiKeyFile?: string
  readonly engineTlsCa?: string
  readonly engineTlsCert?: string
  readonly engineTlsKey?: string
  readonly engineTlsServername?: string
}

/** Access as the adapters take it. */
export interface EngineAccess {
  readonly apiKey?: string
  readonly tls?: { readonly ca?: string; readonly cert?: string; readonly key?: string; readonly servername?: string }
}

/** Options for `https:` engines, by their names on the command line. */
const TLS = {
  engineTlsCa: '--engine-tls-ca',
  engineTlsCert: '--engine-tls-cert',
  engineTlsKey: '--engine-tls-key',
  engineTlsServername: '--engine-tls-servername',
} as const

/** Adds the options with which engines are reached. */
export function addAccessOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--api-key <key>',
        "the engine's --api-key; other users of this machine see it here, but not in CKPT_API_KEY",
      ).env('CKPT_API_KEY'),
    )
    .option('--api-key-file <file>', "file that holds the engine's --api-key")
    .option('--engine-tls-ca <file>', 'certificate authority of an https:// engine, PEM (default: those of the system)')
    .option('--engine-tls-cert <file>', 'own certificate for an https:// engine, PEM; with --engine-tls-key')
    .option('--engine-tls-key <file>', 'key of --engine-tls-cert, PEM')
    .option('--engine-tls-servername <name>', "name that the engine's certificate must contain (default: the host of the URL)")
}

/** Reads what the options name. @throws UsageError naming the option and what was expected. */
export function accessOf(options: AccessOptions, { kind, where }: EngineChoice): EngineAccess {
  const { apiKey, apiKeyFile, engineTlsCert, engineTlsKey, engineTlsServername } = options
  const used = (Object.keys(TLS) as (keyof typeof TLS)[]).find((name) => options[name] !== undefined)
  if (used !== undefined && !where.startsWith('https://')) {
    throw new UsageError(`${TLS[used]}: --engine ${kind}=${where} uses no TLS; expected a URL that begins with https://`)
  }
  if ((engineTlsCert === undefined) !== (engineTlsKey === undefined)) {
    const [given, missing] =
      engineTlsCert === undefined ? ['--engine-tls-key', '--engine-tls-cert'] : ['--engine-tls-cert', '--engine-tls-key']
    throw new UsageError(`${given} requires ${missing}; expected both`)
  }
  if (kind === 'control' && (apiKey ?? apiKeyFile) !== undefined) {
    if (apiKeyFile === undefined) return {} // a variable that is set for other engines
    throw new UsageError('--api-key-file: control sockets take no key; leave it out')
  }
  if (apiKey !== undefined && apiKeyFile !== undefined) {
    throw new UsageError('--api-key and --api-key-file are both given; expected one of them')
  }
  const key = apiKeyFile === undefined ? apiKey : contents('--api-key-file', apiKeyFile).trim()
  if (key !== undefined && !/^[\x21-\x7e]+$/.test(key)) {
    const option = apiKeyFile === undefined ? '--api-key' : `--api-key-file ${apiKeyFile}`
    throw new UsageError(`${option}: expected one line of printable characters without spaces`)
  }
  const tls = {
    ...(options.engineTlsCa !== undefined && { ca: pem('--engine-tls-ca', options.engineTlsCa) }),
    ...(engineTlsCert !== undefined && { cert: pem('--engine-tls-cert', engineTlsCert) }),
    ...(engineTlsKey !== undefined && { key: pem('--engine-tls-key', engineTlsKey) }),
    ...(engineTlsServername !== undefined && { servername: engineTlsServername }),
  }
  return { ...(key !== undefined && { apiKey: key }), ...(used !== undefined && { tls }) }
}

function pem(option: string, path: string): string {
  const text = contents(option, path)
  if (!text.includes('-----BEGIN '))
    throw new UsageError(`${option} ${path}: expected a PEM file, which has a line "-----BEGIN …"`)
  return text
}

function contents(option: string, path: string): string {
  try {
    return readFileSync(userPath(path), 'utf8')
  } catch (error) {
    throw new UsageError(`${option} ${path}: cannot be read (${(error as NodeJS.ErrnoException).code}); expected a file`)
  }
}
