/** Kinds of engines that `--engine` takes. */
export const KINDS = ['vllm', 'sglang', 'sglang-plugin', 'checkpoint-engine', 'control'] as const
type Kind = (typeof KINDS)[number]

/** Engine that `--engine` names. */
export interface EngineChoice {
  readonly kind: Kind
  /** URL, or path of a unix socket; may contain placeholders. */
  readonly where: string
}
