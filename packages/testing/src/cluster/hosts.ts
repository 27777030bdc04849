import { spawnSync } from 'node:child_process'

/** A "host" on this machine: a network namespace with an address that the other one can reach. */
export interface NamespaceHost {
  readonly namespace: string
  readonly address: string
}

/** Two network namespaces with a veth pair between them; removed by `Symbol.dispose`. */
export interface HostPair extends Disposable {
  readonly hosts: readonly [NamespaceHost, NamespaceHost]
}

let pairs = 0

/** Creates two "hosts". Needs root and iproute2; returns the problem instead of throwing. */
export function createHostPair(): HostPair | { readonly problem: string } {
  const id = `${process.pid.toString(36)}${(pairs++).toString(36)}`
  const names = [`ckpt-${id}-a`, `ckpt-${id}-b`] as const
  const links = [`cka${id}`.slice(0, 15), `ckb${id}`.slice(0, 15)] as const
  // Addresses for interconnect tests (RFC 2544); every pair has separate namespaces, so they may be equal.
  const addresses = ['198.18.77.1', '198.18.77.2'] as const
  const remove = (): void => {
    for (const name of names) spawnSync('ip', ['netns', 'del', name])
  }
  const steps = [
    ...names.map((name) => ['netns', 'add', name]),
    ['link', 'add', links[0], 'netns', names[0], 'type', 'veth', 'peer', 'name', links[1], 'netns', names[1]],
    ...names.flatMap((name, index) => [
      ['-n', name, 'addr', 'add', `${addresses[index]}/30`, 'dev', links[index]!],
      ['-n', name, 'link', 'set', links[index]!, 'up'],
      ['-n', name, 'link', 'set', 'lo', 'up'],
    ]),
  ]
  for (const step of steps) {
    const { status, stderr, error } = spawnSync('ip', step, { encoding: 'utf8' })
    if (status === 0) continue
    remove()
    const why = error?.message ?? stderr.trim()
    return { problem: `no network namespaces: ip ${step.join(' ')}: ${why}` }
  }
  return {
    hosts: [
      { namespace: names[0], address: addresses[0] },
      { namespace: names[1], address: addresses[1] },
    ],
    [Symbol.dispose]: remove,
  }
}
