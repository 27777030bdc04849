const PROMPTS = [
  [5, 6, 7, 8],
  [100, 101],
  [41, 300, 17, 9, 250],
]

interface Answer {
  readonly choices: readonly [{ readonly prompt_logprobs: readonly (Record<string, { readonly logprob: number }> | null)[] }]
}

/** Mean log probability that the engine gives the target token after each prompt. */
export async function reward(url: string, model: string, target: number): Promise<number> {
  const logprobs = await Promise.all(
    PROMPTS.map(async (prompt) => {
      const answer = await fetch(`${url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model, prompt: [...prompt, target], max_tokens: 1, temperature: 0, prompt_logprobs: 0 }),
      })
      if (!answer.ok) throw new Error(`the engine answered ${answer.status}: ${await answer.text()}`)
      const { choices } = (await answer.json()) as Answer
      return choices[0].prompt_logprobs.at(-1)![String(target)]!.logprob
    }),
  )
  return logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length
}
