import { spawnSync } from 'node:child_process'

/** What a command is run through, so that it has the host name `name`: a UTS namespace of its own. */
export function namedHost(name: string): string[] {
  return ['unshare', '--uts', 'sh', '-c', 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"', name]
}

/** Why processes cannot be given host names of their own here; undefined where they can. */
export function noNamedHosts(): string | undefined {
  const [command, ...args] = [...namedHost('ckpt-probe'), 'hostname']
  const { stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  return stdout === 'ckpt-probe\n' ? undefined : `no UTS namespaces: ${error?.message ?? stderr.trim()}`
}
