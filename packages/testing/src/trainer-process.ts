import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { wrap, type Spawned } from './cluster/processes.ts'

/**
 * A Python trainer: `argv` is a JSON list of offers [socket, [device, tensors, rows, columns] …]. For every line on standard
 * input, a step number, it changes its weights and offers them; it prints their digests by torch, then "registered".
 */
const TRAINER = `
import contextlib, json, sys, torch
from ckpt_worker import digest
from ckpt_worker.trainer import serve

offers = [(path, {}) for path, *_ in json.loads(sys.argv[1])]
for (path, *groups), (_, tensors) in zip(json.loads(sys.argv[1]), offers):
    for group, (device, count, rows, columns) in enumerate(groups):
        for index in range(count):
            name = f"{path.rpartition('/')[2]}.{group}.{index}"
            tensors[name] = torch.empty(rows + index % 3, columns, dtype=torch.bfloat16, device=device)
        tensors[f"{path.rpartition('/')[2]}.{group}.scale"] = torch.empty((), dtype=torch.float32, device=device)
for line in sys.stdin:
    for _, tensors in offers:
        for index, tensor in enumerate(tensors.values()):
            torch.manual_seed(int(line) * 100003 + index)
            tensor.normal_()
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(serve(tensors, path)) for path, tensors in offers]
        print(json.dumps({n: f"{digest(t):016x}" for _, tensors in offers for n, t in tensors.items()}), flush=True)
        for one in served:
            one.wait(300)
    print('"registered"', flush=True)
`

/** Offer of a trainer at one socket: [socket, then groups of tensors as [torch device, count, rows, columns]]; BF16. */
export type TrainerOffer = readonly [string, ...(readonly [string, number, number, number])[]]

/** A Python trainer in a separate process, which serves its weights step by step. */
export class TrainerProcess implements AsyncDisposable {
  readonly process: Spawned
  readonly #lines: AsyncIterator<string>

  constructor(python: string, offers: readonly TrainerOffer[], env: NodeJS.ProcessEnv = {}) {
    const child = spawn(python, ['-c', TRAINER, JSON.stringify(offers)], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    })
    this.process = wrap('Python trainer', child)
    this.#lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  }

  /** Changes the weights and offers them. @returns every tensor's digest as torch computes it, by name */
  async step(number: number): Promise<Record<string, string>> {
    this.process.child.stdin!.write(`${number}\n`)
    return (await this.#line()) as Record<string, string>
  }

  /** Waits until the ranks have registered the offer. */
  async registered(): Promise<void> {
    const line = await this.#line()
    if (line !== 'registered') throw new Error(`the trainer printed ${JSON.stringify(line)}`)
  }

  async #line(): Promise<unknown> {
    const line = await this.#lines.next()
    if (line.done === true) throw new Error(`the trainer ended: ${this.process.stderr()}`)
    return JSON.parse(line.value) as unknown
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.process.stop()
  }
}
