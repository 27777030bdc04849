/** One update of running vLLM engines. Start a process a rank: `ckpt launch`, torchrun, or anything that sets RANK and WORLD_SIZE. */
import { parseArgs } from 'node:util'
import { CkptError, type UpdateStrategy } from '@ckpt/contract'
import { ParameterServer, broadcast, controlEngine, createCudaDevice, type UpdateReport } from '@ckpt/core'
import { p2p } from '@ckpt/p2p'
import { vllm } from '@ckpt/vllm'

const { values } = parseArgs({
  options: {
    checkpoint: { type: 'string' },
    name: { type: 'string', default: 'my-checkpoint' },
    url: { type: 'string', default: 'http://127.0.0.1:8000' },
    uds: { type: 'string' },
    control: { type: 'string' },
    'parallel-size': { type: 'string', default: '8' },
    update: { type: 'string', default: 'broadcast' },
    'load-metas': { type: 'string' },
    'save-metas': { type: 'string' },
    backend: { type: 'string', default: 'cuda' },
    timeout: { type: 'string', default: '120' },
    'keep-serving': { type: 'boolean', default: false },
  },
})

const rank = Number(process.env['RANK'] ?? 0)
const timeoutMs = Number(values.timeout) * 1000
const parallelSize = Number(values['parallel-size'])
const say = (text: string) => {
  if (rank === 0) process.stdout.write(`${text}\n`)
}

/** What `--update` asks for, in order. */
function strategies(server: ParameterServer): UpdateStrategy[] {
  const ranks = Array.from({ length: server.worldSize }, (_, index) => index)
  switch (values.update) {
    case 'broadcast':
      return [broadcast()]
    case 'p2p':
      return [p2p({ ranks })]
    case 'all':
      return [broadcast(), p2p({ ranks })]
    default:
      throw new CkptError('INVALID_ARGUMENT', `--update is broadcast, p2p or all, not ${values.update}`)
  }
}

function describe(report: UpdateReport): string {
  const seconds = report.totalMs / 1000
  const rate = report.bytes / 1e9 / seconds
  return `${report.strategy}: ${report.tensors} tensors, ${(report.bytes / 1e9).toFixed(2)} GB in ${seconds.toFixed(2)} s (${rate.toFixed(2)} GB/s), ${report.mode}`
}

const device = values.backend === 'cuda' ? await createCudaDevice({ index: Number(process.env['LOCAL_RANK'] ?? 0) }) : undefined
try {
  await using server = await ParameterServer.create({ timeoutMs, ...(device && { device }) })
  const { control } = values
  const engine =
    control !== undefined
      ? controlEngine({ socket: (index) => control.replaceAll('{rank}', String(index)) })
      : vllm({
          ...(values.uds === undefined ? { url: values.url } : { socketPath: values.uds }),
          parallelSize,
          onEvent: (event) => {
            if (event.kind !== 'waiting') say(JSON.stringify(event))
          },
        })
  if (values['load-metas'] !== undefined) {
    const metas = await server.loadMetas(values['load-metas'])
    say(`metas of ${metas.checkpoint}, held by ${metas.ranks.length} ranks`)
  }
  if (values.checkpoint !== undefined) {
    const began = performance.now()
    await server.registerCheckpoint(
      values.name,
      { directory: values.checkpoint },
      { share: { index: server.rank, count: server.worldSize } },
    )
    say(`registered in ${((performance.now() - began) / 1000).toFixed(2)} s`)
    const gathering = performance.now()
    await server.gatherMetas(values.name, { digests: true })
    say(`gathered metas in ${((performance.now() - gathering) / 1000).toFixed(2)} s`)
    if (values['save-metas'] !== undefined && rank === 0) await server.saveMetas(values.name, values['save-metas'])
  }
  for (const strategy of strategies(server)) {
    say(describe(await server.update(values.name, { engine, strategy })))
  }
  if (values['keep-serving']) {
    say('holding the checkpoint for joiners until a signal comes')
    await new Promise((resolve) => process.once('SIGINT', resolve).once('SIGTERM', resolve))
  }
} finally {
  await device?.close()
}
