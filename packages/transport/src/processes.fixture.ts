// Members of a collective as separate processes: code shared by the test that starts them and the processes themselves.
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { CkptError, type SerializedError } from '@ckpt/contract'

export const EXEC_ARGV = ['--import', 'tsx', '--conditions=@ckpt/source']

type Message<Result> =
  | { readonly type: 'exchange'; readonly key: string; readonly value: unknown }
  | { readonly type: 'done'; readonly result: Result }
  | { readonly type: 'failed'; readonly error: SerializedError }

export type Exchange = <T>(key: string, value: T) => Promise<T[]>

/** End of a member's process; `end` is missing if it reported nothing. */
export interface Outcome<Result> {
  readonly pid: number
  readonly end: Exclude<Message<Result>, { readonly type: 'exchange' }> | undefined
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** Starts `script` once for each order; this process only passes the exchange's values on. */
export async function runMembers<Order, Result>(
  script: URL,
  orders: readonly Order[],
  environment: NodeJS.ProcessEnv = {},
): Promise<Outcome<Result>[]> {
  const children: ChildProcess[] = []
  const rounds = new Map<string, Map<number, unknown>>()
  const onExchange = (position: number, key: string, value: unknown): void => {
    const round = rounds.get(key) ?? new Map<number, unknown>()
    rounds.set(key, round.set(position, value))
    if (round.size < orders.length) return
    rounds.delete(key)
    const values = orders.map((_, i) => round.get(i))
    for (const child of children) if (child.connected) child.send({ key, values })
  }
  return Promise.all(
    orders.map(async (order, position): Promise<Outcome<Result>> => {
      const env = { ...process.env, ...environment }
      const child = fork(fileURLToPath(script), [JSON.stringify(order)], { execArgv: EXEC_ARGV, env })
      children[position] = child
      let end: Outcome<Result>['end']
      child.on('message', (message: Message<Result>) => {
        if (message.type === 'exchange') onExchange(position, message.key, message.value)
        else end = message
      })
      const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null]
      return { pid: child.pid!, end, code, signal }
    }),
  )
}

/** The complete program of a member's process: its order, and its end. */
export function beMember<Order, Result>(main: (order: Order, exchange: Exchange) => Promise<Result>): void {
  const waiting = new Map<string, (values: unknown[]) => void>()
  process.on('message', ({ key, values }: { key: string; values: unknown[] }) => waiting.get(key)?.(values))
  const send = (message: Message<Result>): boolean => process.send!(message)
  const exchange: Exchange = <T>(key: string, value: T) =>
    new Promise<T[]>((resolve) => {
      waiting.set(key, (values) => resolve(values as T[]))
      send({ type: 'exchange', key, value })
    })
  main(JSON.parse(process.argv[2]!) as Order, exchange)
    .then(
      (result) => send({ type: 'done', result }),
      (error: unknown) => send({ type: 'failed', error: CkptError.from(error, 'NATIVE_FAILURE').toJSON() }),
    )
    .finally(() => process.disconnect())
    .catch(() => process.exit(1))
}
