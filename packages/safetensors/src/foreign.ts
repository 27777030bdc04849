/** Kind of a file from its first bytes, and the remedy. */
interface Kind {
  readonly what: string
  readonly is: (start: Buffer) => boolean
}

const begins =
  (...prefixes: readonly (string | readonly number[])[]) =>
  (start: Buffer): boolean =>
    prefixes.some((prefix) => {
      const bytes = typeof prefix === 'string' ? Buffer.from(prefix, 'latin1') : Buffer.from(prefix)
      return start.subarray(0, bytes.length).equals(bytes)
    })

const text = (pattern: RegExp) => (start: Buffer) => pattern.test(start.toString('latin1'))

const CONVERT = 'load it with torch.load and save it with safetensors.torch.save_file'

/** More specific ones first. */
const KINDS: readonly Kind[] = [
  {
    what: 'a git LFS pointer: run "git lfs pull" in its clone',
    is: begins('version https://git-lfs.github.com/spec/', 'version https://hawser.github.com/spec/'),
  },
  {
    what: 'a web page, perhaps an error or a login page that was saved under this name: download the file again',
    is: text(/^(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|!--|\?xml)/i),
  },
  { what: 'a GGUF file: use the safetensors files of the model', is: begins('GGUF', 'GGML', 'ggjt', 'tjgg') },
  { what: `a PyTorch checkpoint (a zip archive, by torch.save): ${CONVERT}`, is: (start) => isZip(start) && isTorch(start) },
  { what: 'a zip archive: unpack it first', is: isZip },
  { what: `a Python pickle (by torch.save): ${CONVERT}`, is: isPickle },
  { what: 'a NumPy array: save it with safetensors.numpy.save_file', is: begins([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]) },
  { what: 'an HDF5 file: save its tensors as safetensors', is: begins([0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a]) },
  { what: 'a gzip archive: unpack it first', is: begins([0x1f, 0x8b]) },
  { what: 'a Zstandard archive: unpack it first', is: begins([0x28, 0xb5, 0x2f, 0xfd]) },
  { what: 'an xz archive: unpack it first', is: begins([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]) },
  { what: 'a tar archive: unpack it first', is: (start) => start.toString('latin1', 257, 262) === 'ustar' },
  {
    what: "macOS's AppleDouble file of attributes (a name that starts with ._): leave it out",
    is: begins([0x00, 0x05, 0x16, 0x07], [0x00, 0x05, 0x16, 0x00]),
  },
  {
    what: 'a JSON text: name the safetensors file, or rename an index so that it ends with .safetensors.index.json',
    is: text(/^(?:\xef\xbb\xbf)?\s*[{[]\s*["}\]{[]/),
  },
  { what: 'a file of zeros, as an unfinished download or copy leaves it: fetch it again', is: isZeros },
]

/**
 * Returns the kind of a file that is not a safetensors file, by its first bytes, with the remedy; undefined if they match
 * nothing.
 */
export function foreignKind(start: Buffer): string | undefined {
  return KINDS.find(({ is }) => is(start))?.what
}

function isZip(start: Buffer): boolean {
  return begins('PK\x03\x04', 'PK\x05\x06')(start)
}

/** torch.save writes its pickle first: `NAME/data.pkl`. */
function isTorch(start: Buffer): boolean {
  return start.includes('/data.pkl') || start.includes('/version')
}

/** Protocols 2 to 5, followed by one of the opcodes with which objects begin. */
function isPickle(start: Buffer): boolean {
  return (
    start[0] === 0x80 &&
    start[1] !== undefined &&
    start[1] >= 2 &&
    start[1] <= 5 &&
    '\x8a}]c(\x95X\x8c\x4b'.includes(String.fromCharCode(start[2] ?? 0))
  )
}

function isZeros(start: Buffer): boolean {
  return start.length >= 8 && start.every((byte) => byte === 0)
}
