import type { EngineProcess } from '@ckpt/testing'

/** Returns all parameters' digests of several engines, by the engine's number and the parameter's name. */
export async function digestsOf(engines: readonly EngineProcess[]): Promise<Map<string, string>> {
  const all = await Promise.all(engines.map((engine) => engine.digests()))
  return new Map(all.flatMap((digests, index) => Object.entries(digests).map(([name, value]) => [`${index}/${name}`, value])))
}

/** Returns true if both have the same parameters (at least one) with the same bytes. */
export function sameDigests(left: ReadonlyMap<string, string>, right: ReadonlyMap<string, string>): boolean {
  return left.size > 0 && left.size === right.size && [...left].every(([name, value]) => right.get(name) === value)
}

/** Overwrites the parameters of all engines. */
export async function poisonAll(engines: readonly EngineProcess[]): Promise<void> {
  await Promise.all(engines.map((engine) => engine.poison()))
}
