import { CkptError } from './errors.ts'

/** A two-dimensional copy between memories: `rows` runs of `rowBytes`, `pitch` bytes apart on each side. Sizes in bytes. */
export interface StridedCopy {
  /** Index of the source memory. */
  readonly source: number
  readonly sourceOffset: number
  readonly sourcePitch: number
  /** Index of the destination memory. */
  readonly destination: number
  readonly destinationOffset: number
  readonly destinationPitch: number
  readonly rowBytes: number
  readonly rows: number
}

/** A copy of bytes that are contiguous on both sides. */
export interface ContiguousCopy {
  /** Index of the source memory or region. */
  readonly source: number
  readonly sourceOffset: number
  /** Index of the destination memory. */
  readonly destination: number
  readonly destinationOffset: number
  readonly bytes: number
}

/** Number of columns per {@link StridedCopy}, in the order of its fields. */
const STRIDED = 8
/** Number of columns per {@link ContiguousCopy}. */
const CONTIGUOUS = 5

/** Immutable list of copies as flat numbers, in the form that native code reads. */
export class StridedCopies implements Iterable<StridedCopy> {
  /** For native code: the fields of each copy in the order of {@link StridedCopy}, one copy after the other. */
  readonly columns: Float64Array

  /** @throws CkptError `INVALID_ARGUMENT` if the numbers do not form whole copies. */
  constructor(columns: Float64Array) {
    this.columns = wholeRows(columns, STRIDED)
  }

  static from(copies: Iterable<StridedCopy>): StridedCopies {
    const columns: number[] = []
    for (const copy of copies) {
      columns.push(copy.source, copy.sourceOffset, copy.sourcePitch)
      columns.push(copy.destination, copy.destinationOffset, copy.destinationPitch)
      columns.push(copy.rowBytes, copy.rows)
    }
    return new StridedCopies(Float64Array.from(columns))
  }

  get count(): number {
    return this.columns.length / STRIDED
  }

  /** @throws RangeError if the index is outside the list. */
  at(index: number): StridedCopy {
    const at = rowAt(this.columns, index, STRIDED)
    return {
      source: this.columns[at]!,
      sourceOffset: this.columns[at + 1]!,
      sourcePitch: this.columns[at + 2]!,
      destination: this.columns[at + 3]!,
      destinationOffset: this.columns[at + 4]!,
      destinationPitch: this.columns[at + 5]!,
      rowBytes: this.columns[at + 6]!,
      rows: this.columns[at + 7]!,
    }
  }

  *[Symbol.iterator](): Iterator<StridedCopy> {
    for (let index = 0; index < this.count; index++) yield this.at(index)
  }

  /** Returns a list of the results of `change` for each copy. */
  map(change: (copy: StridedCopy, index: number) => StridedCopy): StridedCopies {
    return StridedCopies.from(Array.from(this, change))
  }
}

/** Immutable list of contiguous copies as flat numbers, in the form that native code reads. */
export class ContiguousCopies implements Iterable<ContiguousCopy> {
  /** For native code: the fields of each copy in the order of {@link ContiguousCopy}, one copy after the other. */
  readonly columns: Float64Array

  /** @throws CkptError `INVALID_ARGUMENT` if the numbers do not form whole copies. */
  constructor(columns: Float64Array) {
    this.columns = wholeRows(columns, CONTIGUOUS)
  }

  static from(copies: Iterable<ContiguousCopy>): ContiguousCopies {
    const columns: number[] = []
    for (const { source, sourceOffset, destination, destinationOffset, bytes } of copies) {
      columns.push(source, sourceOffset, destination, destinationOffset, bytes)
    }
    return new ContiguousCopies(Float64Array.from(columns))
  }

  get count(): number {
    return this.columns.length / CONTIGUOUS
  }

  /** @throws RangeError if the index is outside the list. */
  at(index: number): ContiguousCopy {
    const at = rowAt(this.columns, index, CONTIGUOUS)
    return {
      source: this.columns[at]!,
      sourceOffset: this.columns[at + 1]!,
      destination: this.columns[at + 2]!,
      destinationOffset: this.columns[at + 3]!,
      bytes: this.columns[at + 4]!,
    }
  }

  *[Symbol.iterator](): Iterator<ContiguousCopy> {
    for (let index = 0; index < this.count; index++) yield this.at(index)
  }
}

function wholeRows(columns: Float64Array, width: number): Float64Array {
  if (columns.length % width === 0) return columns
  const text = `copies: ${columns.length} numbers do not form whole copies of ${width} numbers each`
  throw new CkptError('INVALID_ARGUMENT', text, { fields: { field: 'copies' } })
}

function rowAt({ length }: Float64Array, index: number, width: number): number {
  if (Number.isInteger(index) && index >= 0 && index * width < length) return index * width
  throw new RangeError(`copy ${index} of ${length / width}`)
}
