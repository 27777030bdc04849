/**
 * Ranks in groups in which each has proved its place to each. A rank that only some of a group believe is in none of it, so that nobody gets
 * into a group by saying so. Pure: all ranks come to the same groups from the same rows.
 *
 * @param rows by position: for each position whether that rank has proved to this one that it reads its memory
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
