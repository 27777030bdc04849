import { CkptError } from '@ckpt/contract'

/** NCCL's limit on HCAs; what a list names or selects beyond it is left out. */
export const MOST_HCAS = 32

export interface HcaEntry {
  readonly name: string
  /** Absent means every port. */
  readonly port?: number
}

/** What `NCCL_IB_HCA` selects. */
export interface HcaList {
  /** `^`: all but these. */
  readonly exclude: boolean
  /** `=`: entries are whole names, not beginnings of names. */
  readonly exact: boolean
  readonly entries: readonly HcaEntry[]
}

/**
 * Reads a list of HCAs in the form that NCCL documents for `NCCL_IB_HCA`: names separated by commas, each with `:port` where only that
 * port is meant; in front of all of them `^` to leave these out, and `=` (after `^`) to take the names as whole names. Without names
 * every HCA is meant; with `^` and no names none.
 *
 * @param variable - Where the text is from, for the error.
 * @throws CkptError `INVALID_ARGUMENT` for a port that is no number from 1 to 255, or an entry without a name.
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

/** Whether a list selects a port of a device. */
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
