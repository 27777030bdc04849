/** What a schema says of a value that does not fit it, as zod does. */
interface Invalid {
  readonly issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[]
}

/** The first thing that is wrong with a value: at which field (empty for the value itself), and what. */
export function firstIssue({ issues }: Invalid): { readonly field: string; readonly message: string } {
  const [issue] = issues
  return { field: issue?.path.map(String).join('.') ?? '', message: issue?.message ?? 'invalid' }
}
