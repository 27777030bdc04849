import { VllmServer, generateModels, vllmEnvironment } from '@ckpt/testing'

/** A tiny model and a vLLM server on the CPU that serves it, with other weights than the model's. */
export interface Demo {
  readonly url: string
  readonly model: string
  stop(): Promise<void>
}

/** Needs what `npm run setup:vllm` makes. */
export async function startDemo(): Promise<Demo> {
  const environment = await vllmEnvironment()
  if (environment.missing !== undefined) throw new Error(environment.missing)
  const { python } = environment
  const models = await generateModels(python, [{ family: 'qwen3', seed: 1 }])
  const model = models.directories[0]!
  try {
    const server = await VllmServer.serving({ python, model, loadFormat: 'dummy' })
    return {
      url: server.url,
      model,
      async stop() {
        await server.stop()
        models[Symbol.dispose]()
      },
    }
  } catch (error) {
    models[Symbol.dispose]()
    throw error
  }
}
