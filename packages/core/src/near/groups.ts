/**
 * Divides ranks into groups in which each rank has proved its place to each other. A rank that only some of a group believe
 * belongs to no group, so a false claim admits no rank. Pure: all ranks compute the same groups from the same rows.
 *
 * @param rows by position: for each position, true if that rank has proved to this one that it reads its memory
 */
export function groupsOf(ranks: readonly number[], rows: readonly (readonly unknown[])[]): Map<number, number> {
  const believes = (a: number, b: number): boolean => rows[a]?.[b] === true
  const groups: number[][] = []
  for (const position of ranks.keys()) {
    const group = groups.find((members) => members.every((other) => believes(position, other) && believes(other, position)))
    if (group) group.push(position)
    else groups.push([position])
  }
  return new Map(groups.flatMap((members, group) => members.map((position) => [ranks[position]!, group] as const)))
}
