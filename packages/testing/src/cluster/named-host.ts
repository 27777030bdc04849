import { spawnSync } from 'node:child_process'

/** Command prefix that runs a command with the host name `name`, in a separate UTS namespace. */
export function namedHost(name: string): string[] {
  return ['unshare', '--uts', 'sh', '-c', 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"', name]
}

/** Returns the reason why processes cannot have their own host names here; undefined if they can. */
export function noNamedHosts(): string | undefined {
  const [command, ...args] = [...namedHost('ckpt-probe'), 'hostname']
  const { stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  return stdout === 'ckpt-probe\n' ? undefined : `no UTS namespaces: ${error?.message ?? stderr.trim()}`
}
