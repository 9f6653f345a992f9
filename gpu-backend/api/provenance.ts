import type { AdapterMerge } from '../../protocol/adapter-merge.ts'
import type { Provenance } from '../../protocol/backend.ts'
import { hashText } from '../../protocol/content-hash.ts'
import { type Digest, ZERO_DIGEST } from '../../protocol/digest.ts'
import type { ServedAdapter } from './model-target.ts'

interface AnsweredRequest {
  readonly modelDigest: Digest
  readonly adapter: ServedAdapter | null
  readonly prompts: readonly string[]
  /** One text a choice. */
  readonly answers: readonly string[]
}

/** What stands between several texts that are hashed as one. */
const SEPARATOR = '\0'

/** What an answer was made of, but nobody's data: see {@link creditContributors}. */
export function describeProvenance(request: AnsweredRequest): Provenance {
  const { modelDigest, adapter, prompts, answers } = request
  return {
    model_digest: modelDigest,
    adapter_digest: adapter?.digest ?? ZERO_DIGEST,
    adapter_owner: adapter?.owner ?? null,
    ...(adapter?.merge && { merge: formatMerge(adapter.merge) }),
    attribution_digest: ZERO_DIGEST,
    contributors: [],
    spans: [],
    prompt_hash: hashText(prompts.join(SEPARATOR)),
    output_hash: hashText(answers.join(SEPARATOR)),
  }
}

function formatMerge({ method, densityPpm, members }: AdapterMerge): Provenance['merge'] {
  return {
    method,
    density_ppm: densityPpm,
    members: members.map(({ digest, owner, weightPpm }) => ({
      digest,
      owner,
      weight_ppm: weightPpm,
    })),
  }
}

/** Adds whose data supports the answer, where the adapter names a datanet. Several choices are scored as one text. */
export function creditContributors(provenance: Provenance, request: AnsweredRequest): Provenance {
  const attributor = request.adapter?.attributor
  if (!attributor) return provenance
  const { contributors, spans } = attributor.attribute(request.answers.join(SEPARATOR))
  return {
    ...provenance,
    attribution_digest: attributor.digest,
    contributors: contributors.map(({ contributor, payee, weightPpm }) => ({
      contributor,
      payee,
      weight_ppm: weightPpm,
    })),
    spans: spans.map(({ start, end, datumId, contributor }) => ({
      start,
      end,
      datum_id: datumId,
      contributor,
    })),
  }
}
