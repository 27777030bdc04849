import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { runningRequests } from './answers.ts'
import { EventReader, longestGapMs, TokenStream } from './token-stream.ts'

describe('longestGapMs', () => {
  it('is the longest time between tokens around the update, its end included', () => {
    expect(longestGapMs([0, 10, 20, 300, 310], 25, 290)).toBe(280)
    // A longer one that ended before the update, or began after it, does not count.
    expect(longestGapMs([0, 500, 510, 520, 1520], 505, 515)).toBe(10)
  })

  it('is unknown where the stream had not begun, or was over', () => {
    expect(longestGapMs([30, 40], 25, 35)).toBeUndefined()
    expect(longestGapMs([0, 10], 5, 20)).toBeUndefined()
    expect(longestGapMs([], 5, 20)).toBeUndefined()
  })
})

describe('EventReader', () => {
  const event = (text: string) => `data: ${JSON.stringify({ choices: [{ text }] })}\n\n`

  it('counts tokens of events that arrive in any parts', () => {
    const whole = `${event('a')}${event('é')}data: [DONE]\n\n`
    for (let at = 0; at < whole.length; at++) {
      const reader = new EventReader()
      expect(reader.read(whole.slice(0, at)) + reader.read(whole.slice(at))).toBe(2)
    }
  })

  it('throws what an error event says', () => {
    expect(() => new EventReader().read('data: {"error":{"message":"the engine is dead"}}\n')).toThrow(/the engine is dead/)
  })
})

describe('TokenStream', () => {
  let server: Server
  afterEach(() => {
    server.closeAllConnections()
    server.close()
  })

  async function serve(answer: (response: ServerResponse) => Promise<void>): Promise<string> {
    server = createServer((_, response) => void answer(response))
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  const request = { model: 'm', prompt: [1], maxTokens: 5 }

  it('notes when tokens arrive, and sees a pause', async () => {
    const url = await serve(async (response) => {
      for (const pause of [0, 5, 5, 200, 5, 5]) {
        await sleep(pause)
        response.write('data: {"choices":[{"text":"x"}]}\n\n')
      }
    })
    await using stream = TokenStream.start({ url, ...request })
    expect(await stream.received(3, 0, 10_000)).toBe(true)
    const from = performance.now()
    expect(await stream.received(6, 0, 10_000)).toBe(true)
    const gap = longestGapMs(stream.arrivals, from, stream.arrivals[4]!)
    expect(gap).toBeGreaterThan(150)
  })

  it('says that no more tokens come, and why a request was refused', async () => {
    let status = 200
    const url = await serve((response) => {
      response.writeHead(status).end(status === 200 ? 'data: {"choices":[{"text":"x"}]}\n\n' : 'no such model')
      return Promise.resolve()
    })
    await using ended = TokenStream.start({ url, ...request })
    expect(await ended.received(2, 0, 10_000)).toBe(false)
    status = 404
    await using refused = TokenStream.start({ url, ...request })
    await expect(refused.received(1, 0, 10_000)).rejects.toThrow(/404: no such model/)
  })
})

it('runningRequests adds the engines of a server, and knows nothing of one that does not count', () => {
  const metrics = [
    '# HELP vllm:num_requests_running Number of requests in model execution batches.',
    'vllm:num_requests_running{engine="0",model_name="/m"} 1.0',
    'vllm:num_requests_running{engine="1",model_name="/m"} 2.0',
    'vllm:num_requests_waiting{engine="0",model_name="/m"} 7.0',
  ]
  expect(runningRequests(metrics.join('\n'))).toBe(3)
  expect(runningRequests('python_info 1.0\n')).toBeUndefined()
})
