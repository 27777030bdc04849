import { InvalidArgumentError } from 'commander'

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
}

/** Parses a size such as `64MiB`, `1.5GB` or `4096`. @throws InvalidArgumentError on anything else. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?$/i.exec(text.trim())
  const unit = match && UNITS[match[2]!.toLowerCase()]
  if (!match || unit === undefined || unit === null) throw new InvalidArgumentError('expected a size such as 64MiB or 1.5GB')
  const bytes = Math.round(Number(match[1]) * unit)
  if (!Number.isSafeInteger(bytes) || bytes <= 0) throw new InvalidArgumentError('expected a size above zero')
  return bytes
}

/** Formats a size for people: `1.50 GB`. Decimal units, as for link and memory rates. */
export function formatSize(bytes: number): string {
  const step = bytes >= 1e9 ? ([1e9, 'GB'] as const) : bytes >= 1e6 ? ([1e6, 'MB'] as const) : ([1e3, 'kB'] as const)
  return `${(bytes / step[0]).toFixed(2)} ${step[1]}`
}

/** Smallest number that each parser of {@link parseCount} accepts. */
const SMALLEST = new WeakMap<object, number>()

/** Returns a parser of whole numbers of at least `minimum`. */
export function parseCount(minimum: number): (text: string) => number {
  const parse = (text: string): number => {
    const value = text.trim() === '' ? NaN : Number(text)
    if (!Number.isSafeInteger(value) || value < minimum)
      throw new InvalidArgumentError(`expected a whole number of at least ${minimum}`)
    return value
  }
  SMALLEST.set(parse, minimum)
  return parse
}

/** Returns a parser of ports. */
export function parsePort(text: string): number {
  const value = parseCount(1)(text)
  if (value > 65_535) throw new InvalidArgumentError('expected a port from 1 to 65535')
  return value
}

/** Returns the smallest number that a parser of {@link parseCount} accepts; undefined for other parsers. */
export function smallestOf(parse: object): number | undefined {
  return SMALLEST.get(parse)
}
