/** A schema's description of an invalid value, in the form of zod. */
interface Invalid {
  readonly issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[]
}

/** Returns the first problem of a value: its field (empty for the value itself), and a message. */
export function firstIssue({ issues }: Invalid): { readonly field: string; readonly message: string } {
  const [issue] = issues
  return { field: issue?.path.map(String).join('.') ?? '', message: issue?.message ?? 'invalid' }
}
