/**
 * A trainer that changes weights at every step while an engine serves.
 *
 * The policy is a language model, an action is a token, the reward is how likely the engine finds one chosen token. The trainer
 * evolves the output head: it adds noise, has the engine take the candidate, asks it, and keeps what is better. Weights go from the
 * trainer's memory into the engine; no file is written, and the engine never restarts.
 */
import { parseArgs } from 'node:util'
import { ParameterServer } from '@ckpt/core'
import { vllm } from '@ckpt/vllm'
import { reward } from './rl-loop/engine.ts'
import { startDemo, type Demo } from './rl-loop/demo.ts'
import { Policy } from './rl-loop/policy.ts'

const { values } = parseArgs({
  options: {
    demo: { type: 'boolean', default: false },
    url: { type: 'string', default: 'http://127.0.0.1:8000' },
    model: { type: 'string' },
    tensor: { type: 'string', default: 'lm_head.weight' },
    steps: { type: 'string', default: '12' },
    target: { type: 'string', default: '7' },
    seed: { type: 'string', default: '1' },
  },
})

const demo: Demo | undefined = values.demo ? await startDemo() : undefined
try {
  const model = demo?.model ?? values.model
  if (model === undefined) throw new Error('give --model DIRECTORY (as the engine was started with), or --demo')
  const url = demo?.url ?? values.url
  const policy = await Policy.read(model, Number(values.seed))
  await using server = await ParameterServer.create({ rank: 0, worldSize: 1 })
  const engine = vllm({ url, parallelSize: 1 })

  /** Has the engine serve the policy as it is now. */
  const publish = async (version: string) => {
    await server.registerCheckpoint(version, { tensors: policy.tensors() })
    const report = await server.update(version, { engine })
    await server.unregisterCheckpoint(version)
    return report
  }

  let best = -Infinity
  for (let step = 0; step <= Number(values.steps); step++) {
    const undo = step === 0 ? () => undefined : policy.disturb(values.tensor, 0.15)
    const report = await publish(`step-${step}`)
    const found = await reward(url, model, Number(values.target))
    const better = found > best
    if (better) best = found
    else undo()
    const line = `step ${step}: reward ${found.toFixed(4)}${better ? ' kept' : ''}, update of ${report.tensors} tensors in ${report.totalMs.toFixed(0)} ms`
    process.stdout.write(`${line}\n`)
  }
  await publish('final')
  process.stdout.write(
    `final reward ${(await reward(url, model, Number(values.target))).toFixed(4)}, best ${best.toFixed(4)}\n`,
  )
} finally {
  await demo?.stop()
}
