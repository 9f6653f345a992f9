import { type Provenance, provenanceSchema, type Usage } from '../../protocol/backend.ts'

/** What the gateway reads of an upstream body or stream frame; everything else passes unread. */
export interface JsonObject {
  readonly [name: string]: unknown
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The object that `text` is, or null if it is no JSON or no object. */
export function parseJsonObject(text: string): JsonObject | null {
  try {
    const value: unknown = JSON.parse(text)
    return isJsonObject(value) ? value : null
  } catch {
    return null
  }
}

/**
 * An OpenAI `usage` object, or null if its counts are none. Lenient about what servers add or set to
 * null; cached tokens never exceed the prompt's.
 */
export function readUsage(value: unknown): Usage | null {
  if (!isJsonObject(value)) return null
  const promptTokens = readCount(value.prompt_tokens)
  const completionTokens = readCount(value.completion_tokens)
  if (promptTokens === null || completionTokens === null) return null
  const details = value.prompt_tokens_details
  const cachedTokens = (isJsonObject(details) ? readCount(details.cached_tokens) : null) ?? 0
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: Math.min(cachedTokens, promptTokens) },
  }
}

function readCount(value: unknown): number | null {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : null
}

/** The `tallygate` object of our own backend, or null where it is missing or not what was agreed. */
export function readProvenance(value: unknown): Provenance | null {
  if (value === undefined) return null
  const parsed = provenanceSchema.safeParse(value)
  return parsed.success ? parsed.data : null
}

/** What a caller who asked for attribution is told of an answer's provenance. */
export function publishAttribution(provenance: Provenance): JsonObject {
  return {
    attribution: {
      index: provenance.attribution_digest,
      contributors: provenance.contributors,
      spans: provenance.spans,
    },
  }
}
