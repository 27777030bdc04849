import { CkptError } from '@ckpt/contract'

/** NCCL's limit on HCAs; further ones that a list names or selects are left out. */
export const MOST_HCAS = 32

export interface HcaEntry {
  readonly name: string
  /** Absent means every port. */
  readonly port?: number
}

/** HCAs that `NCCL_IB_HCA` selects. */
export interface HcaList {
  /** `^`: all except these. */
  readonly exclude: boolean
  /** `=`: entries are whole names, not beginnings of names. */
  readonly exact: boolean
  readonly entries: readonly HcaEntry[]
}

/**
 * Parses a list of HCAs in the form that NCCL documents for `NCCL_IB_HCA`: names separated by commas, each with `:port` to use
 * only that port; in front of all of them `^` to exclude these, and `=` (after `^`) to treat the names as whole names. Without
 * names it means every HCA; with `^` and no names none.
 *
 * @param variable - Source of the text, for the error.
 * @throws CkptError `INVALID_ARGUMENT` for a port that is not a number from 1 to 255, or an entry without a name.
 * @see https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-ib-hca
 */
export function parseHcaList(text: string, variable = 'NCCL_IB_HCA'): HcaList {
  let rest = text.trim()
  const exclude = rest.startsWith('^')
  if (exclude) rest = rest.slice(1)
  const exact = rest.startsWith('=')
  if (exact) rest = rest.slice(1)
  const entries = rest
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
    .map((entry) => parseEntry(entry, variable))
  return { exclude, exact, entries: entries.slice(0, MOST_HCAS) }
}

function parseEntry(entry: string, variable: string): HcaEntry {
  const [name = '', port, ...more] = entry.split(':')
  const number = Number(port)
  const good = name !== '' && more.length === 0 && (port === undefined || (/^\d+$/.test(port) && number >= 1 && number <= 255))
  if (!good) {
    throw new CkptError('INVALID_ARGUMENT', `${variable}: "${entry}" is not a device name, or a device name and :port`, {
      fields: { field: variable },
    })
  }
  return port === undefined ? { name } : { name, port: number }
}

/** Returns true if a list selects a port of a device. */
export function selects(list: HcaList, device: string, port: number): boolean {
  const named =
    list.entries.length === 0 ||
    list.entries.some(
      (entry) =>
        (list.exact ? device === entry.name : device.startsWith(entry.name)) &&
        (entry.port === undefined || entry.port === port),
    )
  return named !== list.exclude
}
