/** `T` without undefined values: absent keys stay absent. */
export type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> }

/** Returns `options` without the keys whose value is undefined. */
export function defined<T extends object>(options: T): Defined<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Defined<T>
}
