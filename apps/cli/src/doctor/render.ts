import type { Check, Section } from './check.ts'

/** Returns the findings as text; remedies are below their findings. */
export function renderText(sections: readonly Section[], lacks: readonly Check[]): string {
  const all = sections.flatMap(({ checks }) => checks)
  const width = Math.max(...all.map(({ id }) => id.length))
  const blocks = sections.map(({ title, checks }) => `${title}\n${checks.map((check) => line(check, width)).join('')}`)
  const count = (status: Check['status']) => all.filter((check) => check.status === status).length
  const verdict =
    lacks.length === 0
      ? `ready: nothing required is missing (${count('warn')} warnings, ${count('missing')} optional parts missing)`
      : `not ready: ${lacks.map(({ id }) => id).join(', ')}`
  return `${blocks.join('\n')}\n${verdict}\n`
}

function line({ id, status, found, remedy }: Check, width: number): string {
  const head = `  ${status.padEnd(8)} ${id.padEnd(width)}  `
  const indent = ' '.repeat(head.length)
  const text = `${head}${found.replaceAll('\n', `\n${indent}`)}\n`
  return remedy === undefined ? text : `${text}${indent}→ ${remedy}\n`
}

/** Returns the findings as JSON, for provisioning scripts. */
export function renderJson(sections: readonly Section[], lacks: readonly Check[]): string {
  const checks = sections.flatMap(({ title, checks: found }) => found.map((check) => ({ section: title, ...check })))
  return `${JSON.stringify({ schema: 1, ready: lacks.length === 0, lacking: lacks.map(({ id }) => id), checks }, null, 2)}\n`
}
