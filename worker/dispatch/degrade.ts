import { ApiError } from '../errors.ts'
import type { Concession } from './concession.ts'
import { type Candidate, findTargets } from './find-targets.ts'
import type { GenerationRequest } from './generation-request.ts'

/** The request as it goes upstream with a concession. */
export function concede(
  request: GenerationRequest,
  { model = request.model, maxTokens }: Concession,
): GenerationRequest {
  const body: Record<string, unknown> = { ...request.body, model }
  if (maxTokens !== undefined) {
    const given = LIMIT_FIELDS.filter((name) => body[name] != null)
    for (const name of given.length === 0 ? ['max_tokens'] : given) body[name] = maxTokens
  }
  const bodyBytes = new TextEncoder().encode(JSON.stringify(body))
  const maxCompletionTokens = maxTokens ?? request.maxCompletionTokens
  return { ...request, model, maxCompletionTokens, body, bodyBytes }
}

const LIMIT_FIELDS = ['max_tokens', 'max_completion_tokens']

/**
 * Who can serve a request: first as it was asked for, then with each concession of its caller, in
 * order. Throws what `findTargets` throws, unless only backends are lacking and a concession helps.
 */
export async function findCandidates(
  dispatch: Parameters<typeof findTargets>[0],
  request: GenerationRequest,
  ...more: [Parameters<typeof findTargets>[2], Parameters<typeof findTargets>[3]]
): Promise<readonly [Candidate, ...Candidate[]]> {
  const { degradation } = request
  if (degradation === undefined) return findTargets(dispatch, request, ...more)
  const asked = await orNobody(() => findTargets(dispatch, request, ...more))
  const candidates = [...asked.candidates]
  const { maxTokens, models } = degradation
  const isShorter =
    maxTokens !== null && maxTokens < (request.maxCompletionTokens ?? Number.POSITIVE_INFINITY)
  const shorter = isShorter ? { maxTokens } : {}
  if (isShorter)
    candidates.push(...asked.candidates.map((each) => ({ ...each, concession: shorter })))
  for (const [index, model] of models.entries()) {
    const param = `tallygate.degrade.models[${index}]`
    const found = await orNobody(
      () => findTargets(dispatch, { model, merge: null }, ...more),
      param,
    )
    const concession = { model, ...shorter }
    candidates.push(...found.candidates.map((each) => ({ ...each, concession })))
  }
  const [first, ...others] = candidates
  if (first === undefined) throw asked.error
  return [first, ...others]
}

/** What was found, or the error that says that no backend serves it now. */
async function orNobody(
  find: () => Promise<readonly Candidate[]>,
  param?: string,
): Promise<{ readonly candidates: readonly Candidate[]; readonly error?: ApiError }> {
  try {
    return { candidates: await find() }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    if (error.code === 'no_backend') return { candidates: [], error }
    const { code, message } = error
    throw param === undefined ? error : new ApiError(code, { message, param, cause: error })
  }
}
