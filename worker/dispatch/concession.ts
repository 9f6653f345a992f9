/** What the caller would put up with rather than be refused. */
export interface Degradation {
  /** Null: no shorter answer. */
  readonly maxTokens: number | null
  /** In the order in which they are asked. */
  readonly models: readonly string[]
}

/** One thing that the caller has put up with; what is absent is as it was asked for. */
export interface Concession {
  readonly model?: string
  readonly maxTokens?: number
}

/** As it is told in `x-tallygate-degraded`. */
export function describeConcession({ model, maxTokens }: Concession): string {
  return [
    ...(model === undefined ? [] : [`model=${encodeURI(model)}`]),
    ...(maxTokens === undefined ? [] : [`max_tokens=${maxTokens}`]),
  ].join(', ')
}
