import type { Run } from '../result.ts'

/** Labels each run with its title and enough further data to distinguish it from the others. */
export function runLabels(runs: readonly Run[]): string[] {
  const short = runs.map(({ title }) => title)
  const parts = runs.map(({ title, strategy, ranks, backend, ...run }) => {
    const variant = run.engine === 'vllm' ? `vLLM, ${run.requested}` : run.variant
    return [title, `${strategy} to ${ranks}`, ...(variant === undefined ? [] : [variant]), backend]
  })
  let labels = short
  for (let length = 2; new Set(labels).size < labels.length && length <= 4; length++) {
    labels = runs.map((_, index) => {
      const twice = short.filter((one) => one === short[index]).length > 1
      return twice ? parts[index]!.slice(0, length).join(', ') : short[index]!
    })
  }
  return labels.map((label, index) => (labels.indexOf(label) === index ? label : `${label} (${index + 1})`))
}
