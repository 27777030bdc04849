import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { OwnerCalls } from './owner.ts'

/** A process that serves regions. */
export class Owner {
  readonly #child: ChildProcess

  constructor(env: NodeJS.ProcessEnv = {}) {
    const options = { serialization: 'advanced', env: { ...process.env, ...env } } as const
    this.#child = fork(fileURLToPath(new URL('./owner.ts', import.meta.url)), options)
  }

  async call<K extends keyof OwnerCalls>(call: K, argument: OwnerCalls[K][0]): Promise<OwnerCalls[K][1]> {
    this.#child.send({ call, argument })
    const [message] = (await once(this.#child, 'message')) as [{ value: OwnerCalls[K][1] } | { error: string }]
    if ('error' in message) throw new Error(message.error)
    return message.value
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const gone = once(this.#child, 'exit')
    this.#child.kill('SIGKILL')
    await gone
  }
}
