import { sha256, stringToHex } from 'viem'
import { z } from 'zod'
import { type Address, addressSchema, type Digest, digestSchema } from './digest.ts'

/** How several adapters become one (docs/adapters.md). */
export const MERGE_METHODS = ['linear', 'ties', 'dare_linear', 'dare_ties'] as const

type MergeMethod = (typeof MERGE_METHODS)[number]

/** The most adapters of one merge. */
export const MAX_MERGED_ADAPTERS = 8

const PPM = 1_000_000

/** Weights and densities count to the millionth. */
const MIN_FRACTION = 1 / PPM

const MAX_WEIGHT = 10

/** What the `tallygate` object of a request says of adapters to be merged for it. */
export const mergeRequestSchema = z
  .looseObject({
    adapters: z
      .array(
        z.strictObject({
          id: z.string().min(1).max(200),
          weight: z.number().min(MIN_FRACTION).max(MAX_WEIGHT).nullish(),
        }),
      )
      .min(1)
      .max(MAX_MERGED_ADAPTERS)
      .nullish(),
    merge: z.enum(MERGE_METHODS).nullish(),
    /** The part of each adapter's values that is kept. */
    density: z.number().min(MIN_FRACTION).max(1).nullish(),
  })
  .superRefine(({ adapters, merge, density }, ctx) => {
    const refuse = (path: PropertyKey[], message: string) =>
      ctx.addIssue({ code: 'custom', path, message })
    if (!adapters) {
      if (merge) refuse(['merge'], "is only allowed with 'adapters'")
      if (density) refuse(['density'], "is only allowed with 'adapters'")
      return
    }
    const ids = adapters.map(({ id }) => id)
    const again = ids.findIndex((id, index) => ids.indexOf(id) !== index)
    if (again !== -1) refuse(['adapters', again, 'id'], 'is named twice')
    const isWhole = (merge ?? 'linear') === 'linear'
    if (isWhole && density) refuse(['density'], "is only for 'ties', 'dare_linear' and 'dare_ties'")
    if (!isWhole && !density) refuse(['density'], `must be given for '${merge}'`)
  })

type MergeRequest = z.output<typeof mergeRequestSchema>

/** Adapters by their ids, as a request asks for them. */
export interface MergePlan {
  readonly method: MergeMethod
  /** Null: all values are kept. */
  readonly densityPpm: number | null
  readonly members: readonly { readonly id: string; readonly weightPpm: number }[]
}

/** Null: the request merges nothing. */
export function planMerge(request: MergeRequest | null | undefined): MergePlan | null {
  if (!request?.adapters) return null
  const { adapters, merge, density } = request
  return {
    method: merge ?? 'linear',
    densityPpm: density ? Math.round(density * PPM) : null,
    members: adapters.map(({ id, weight }) => ({
      id,
      weightPpm: Math.round((weight ?? 1) * PPM),
    })),
  }
}

export const mergeMemberSchema = z.strictObject({
  /** SHA-256 of the adapter's content. */
  digest: digestSchema,
  /** Who is paid for it; null: it names nobody. */
  owner: addressSchema.nullable(),
  weightPpm: z
    .int()
    .min(1)
    .max(MAX_WEIGHT * PPM),
})

export type MergeMember = Readonly<z.infer<typeof mergeMemberSchema>>

/** What a merged adapter was made of: it opens the adapter digest of a usage leaf of version 2. */
export const adapterMergeSchema = z
  .strictObject({
    method: z.enum(MERGE_METHODS),
    /** Null for `linear` alone. */
    densityPpm: z.int().min(1).max(PPM).nullable(),
    /** In the order of `orderMembers`, so that one merge has one spelling. */
    members: z.array(mergeMemberSchema).min(1).max(MAX_MERGED_ADAPTERS),
  })
  .refine(({ method, densityPpm }) => (method === 'linear') === (densityPpm === null), {
    path: ['densityPpm'],
    message: 'is null for linear, and for no other method',
  })
  .refine(({ members }) => members.every((member, i) => compareAt(members, i, member) <= 0), {
    path: ['members'],
    message: 'are out of order',
  })

export type AdapterMerge = Readonly<z.infer<typeof adapterMergeSchema>>

/** By digest, then weight, then owner: whoever asks for the same merge gets the same adapter. */
export function orderMembers<Member extends MergeMember>(members: readonly Member[]): Member[] {
  return members.toSorted(compareMembers)
}

function compareAt(members: readonly MergeMember[], index: number, member: MergeMember): number {
  const previous = members[index - 1]
  return previous === undefined ? 0 : compareMembers(previous, member)
}

function compareMembers(a: MergeMember, b: MergeMember): number {
  return (
    compareText(a.digest, b.digest) ||
    a.weightPpm - b.weightPpm ||
    compareText(a.owner ?? '', b.owner ?? '')
  )
}

function compareText(a: Digest | Address | '', b: Digest | Address | ''): number {
  return Number(a > b) - Number(a < b)
}

/** Whether a merge stands exactly where a leaf's version says so, and is the one that it names. */
export function opensAdapter(
  leaf: { readonly version: number; readonly adapterDigest: Digest },
  merge: AdapterMerge | null,
): boolean {
  if (merge === null) return leaf.version === 1
  return leaf.version === 2 && digestMerge(merge) === leaf.adapterDigest
}

/**
 * Names the merged adapter by what it is computed from, which is SHA-256 of the UTF-8 lines
 * `tallygate merge 1`, `<method> <densityPpm, or 1000000>`, and `<digest> <weightPpm>` of each member
 * in order, each ended by a line feed. Owners are not in it.
 */
export function digestMerge({
  method,
  densityPpm,
  members,
}: Pick<AdapterMerge, 'method' | 'densityPpm'> & {
  readonly members: readonly Pick<MergeMember, 'digest' | 'weightPpm'>[]
}): Digest {
  const lines = [
    'tallygate merge 1',
    `${method} ${densityPpm ?? PPM}`,
    ...members.map(({ digest, weightPpm }) => `${digest} ${weightPpm}`),
  ]
  return sha256(stringToHex(lines.map((line) => `${line}\n`).join('')))
}
