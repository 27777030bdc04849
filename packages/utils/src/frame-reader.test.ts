import fc from 'fast-check'
import { expect, it } from 'vitest'
import { FrameReader } from './frame-reader.ts'

const LIMIT = 300
const reader = () =>
  new FrameReader({
    headerBytes: 3,
    bodyBytes: (header) => {
      const bytes = header.readUInt16BE(1)
      if (bytes > LIMIT) throw new Error(`${bytes} bytes`)
      return bytes
    },
  })

function framed(mark: number, body: Uint8Array): Buffer {
  const header = Buffer.alloc(3)
  header[0] = mark
  header.writeUInt16BE(body.length, 1)
  return Buffer.concat([header, body])
}

it('gives back any frames, in whatever pieces their bytes arrive', () => {
  const frames = fc.array(fc.tuple(fc.nat(255), fc.uint8Array({ maxLength: LIMIT })), { maxLength: 12 })
  fc.assert(
    fc.property(frames, fc.array(fc.nat(), { maxLength: 20 }), (sent, cuts) => {
      const stream = Buffer.concat(sent.map(([mark, body]) => framed(mark, body)))
      const at = [0, ...cuts.map((cut) => cut % (stream.length + 1)).sort((a, b) => a - b), stream.length]
      const frameReader = reader()
      const got = at.slice(1).flatMap((end, i) => [...frameReader.read(stream.subarray(at[i], end))])
      expect(got.map(({ header, body }) => [header[0], new Uint8Array(body)])).toEqual(sent)
    }),
  )
})

it('refuses a frame by its header, before any of its body', () => {
  const header = framed(1, new Uint8Array(LIMIT + 1)).subarray(0, 3)
  expect(() => [...reader().read(header)]).toThrow('301 bytes')
})
