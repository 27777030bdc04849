// Runs a pipeline on a worker thread and terminates the thread in the middle of it; for processes.test.ts.
import { once } from 'node:events'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { createHostDevice } from './device.ts'
import { memoryExchange, testJob, testPlan, testSource } from './pipeline.fixture.ts'

async function startPipeline(): Promise<void> {
  const plan = testPlan(1, 30, 200_000, 1 << 20)
  const device = await createHostDevice()
  const ring = await device.createRing(plan.ringBytes)
  const source = await testSource(device.host, plan, 0)
  const exchange = memoryExchange(1)(0)
  const collective = await device.createCollective({ position: 0, size: 1, exchange, timeoutMs: 60_000 })
  const onBucket = (): void => parentPort!.postMessage(ring.handle)
  await collective.run(testJob(plan, 0, ring, source, { timeoutMs: 60_000, onBucket }))
}

async function terminateOne(): Promise<void> {
  // A worker thread does not inherit the loader that --import tsx registered.
  const script = `import('tsx/esm/api').then((tsx) => (tsx.register(), import(${JSON.stringify(import.meta.url)})))`
  const worker = new Worker(script, { eval: true })
  const [handle] = (await once(worker, 'message')) as [unknown]
  const start = performance.now()
  await worker.terminate()
  process.send!({ handle, milliseconds: performance.now() - start })
}

if (isMainThread) await terminateOne()
else await startPipeline()
