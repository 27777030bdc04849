import { CkptError } from '@ckpt/contract'
import { parseHeader } from './header.ts'
import { headerFor } from './write.ts'

const spec = (name: string, dtype: 'BF16' | 'F32' | 'U8', shape: number[]) => ({ name, dtype, shape })

/** Safetensors headers: the first bytes of a file; the following bytes count as data. */
export const fuzz = {
  name: 'header',
  seeds(): Uint8Array[] {
    const files = [
      [],
      [spec('a', 'U8', [3])],
      [spec('model.layers.0.weight', 'BF16', [4, 2]), spec('model.layers.0.bias', 'F32', []), spec('ü"\\', 'U8', [0])],
    ]
    return [{}, { format: 'pt' }].flatMap((metadata) =>
      files.map((tensors) => {
        const { header, dataBytes } = headerFor(tensors, { metadata })
        return Buffer.concat([header, Buffer.alloc(dataBytes)])
      }),
    )
  },
  run(input: Uint8Array): string {
    const source = { file: 'fuzz.safetensors', fileBytes: input.byteLength }
    try {
      const { tensors, dataStart, fileBytes } = parseHeader(input, source)
      let at = 0
      for (const { name, shape, begin, end } of tensors) {
        if (begin !== at || end < begin) throw new Error(`${name} begins at ${begin}, not ${at}`)
        if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0))
          throw new Error(`${name} has shape ${String(shape)}`)
        at = end
      }
      if (dataStart + at !== fileBytes) throw new Error(`tensors end at ${at} of ${fileBytes - dataStart}`)
      if (new Set(tensors.map(({ name }) => name)).size !== tensors.length) throw new Error('a name appears twice')
      return `${tensors.length} tensors`
    } catch (error) {
      if (!CkptError.is(error, 'CHECKPOINT_MALFORMED')) throw error
      const { file, field } = error.fields
      if (file !== source.file || typeof field !== 'string')
        throw new Error('the error names no file or field', { cause: error })
      return error.message.replaceAll(/\d+|"(?:[^"\\]|\\.)*"/g, '#').slice(0, 100)
    }
  },
}
