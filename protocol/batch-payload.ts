import { bytesToHex, concatBytes, hexToBytes } from 'viem'
import {
  type AdapterMerge,
  adapterMergeSchema,
  MERGE_METHODS,
  opensAdapter,
} from './adapter-merge.ts'
import { type ByteReader, createByteReader, MalformedBytes } from './byte-reader.ts'
import type { Address, Digest } from './digest.ts'
import {
  CREDIT_ROLES,
  type Credit,
  creditSchema,
  hashCredits,
  type UsageLeaf,
  usageLeafSchema,
} from './usage-leaf.ts'

/**
 * The batch payload, version 1: the leaves of a batch with their credits, as they are posted to the
 * DA layer and archived. One list of entries has exactly one encoding, so that its keccak256 is the
 * batch's identity.
 *
 * ```
 * payload = "TGB" 0x01 ‖ leafCount:u32 ‖ entry…
 * entry   = leafVersion:u8 ‖ length:u8 ‖ requestId without "req_" ‖ accountCommitment:ref
 *         ‖ completedAtMs:int ‖ modelDigest:ref ‖ adapterDigest:ref ‖ promptTokens:int
 *         ‖ cachedTokens:int ‖ completionTokens:int ‖ feeMicroUsd:int ‖ priceVersion:int
 *         ‖ splitVersion:int ‖ attributionDigest:ref ‖ contentCommitment:32 bytes
 *         ‖ creditCount:int ‖ credit… ‖ merge of leaf version 2
 * merge   = method:u8 ‖ densityPpm:int, 0 for none ‖ memberCount:int ‖ member…
 * member  = digest:ref ‖ weightPpm:int ‖ ownerCount:u8, 0 or 1 ‖ owner:ref
 * credit  = payee:ref ‖ role:u8 ‖ ppm:int ‖ amountMicroUsd:int
 * ```
 * `int` is an unsigned LEB128 of the least length, up to 2^53 − 1. `ref` is an int: k > 0 for the
 * k-th value that the payload spelled out before, 0 for a new one, whose bytes follow; digests and
 * payees are counted apart. `creditsHash` is not encoded, it follows from the credits.
 */
export interface BatchEntry {
  readonly leaf: UsageLeaf
  readonly credits: readonly Credit[]
  /** What the adapter of a leaf of version 2 was merged of; null for version 1. */
  readonly merge: AdapterMerge | null
}

const MAGIC = 'TGB\u0001'
const HEADER_BYTES = 8
const REQUEST_ID_PREFIX = 'req_'

/** Keeps a byte order mark, which would else be a second spelling of the same text. */
const UTF8 = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

/** The payload of these entries, in their order. */
export function encodeBatchPayload(entries: readonly BatchEntry[]): Uint8Array {
  return joinPayload([...encodeEntries(entries)])
}

/**
 * The entries one by one, so that a planner can stop at a size: the first n of them make a payload
 * of their own. Throws where a leaf does not commit to its credits.
 */
export function* encodeEntries(entries: Iterable<BatchEntry>): Generator<Uint8Array> {
  const digests = new Map<Digest, number>()
  const payees = new Map<Address, number>()
  for (const { leaf, credits, merge } of entries) {
    if (hashCredits(credits) !== leaf.creditsHash) {
      throw new Error(`The leaf of ${leaf.requestId} does not commit to its credits.`)
    }
    if (!opensAdapter(leaf, merge)) {
      throw new Error(`The leaf of ${leaf.requestId} does not commit to its merge.`)
    }
    const requestId = new TextEncoder().encode(leaf.requestId.slice(REQUEST_ID_PREFIX.length))
    yield concatBytes([
      Uint8Array.of(leaf.version, requestId.length),
      requestId,
      encodeReference(leaf.accountCommitment, digests),
      encodeInt(leaf.completedAtMs),
      encodeReference(leaf.modelDigest, digests),
      encodeReference(leaf.adapterDigest, digests),
      encodeInt(leaf.promptTokens),
      encodeInt(leaf.cachedTokens),
      encodeInt(leaf.completionTokens),
      encodeInt(leaf.feeMicroUsd),
      encodeInt(leaf.priceVersion),
      encodeInt(leaf.splitVersion),
      encodeReference(leaf.attributionDigest, digests),
      hexToBytes(leaf.contentCommitment),
      encodeInt(credits.length),
      ...credits.flatMap((credit) => [
        encodeReference(credit.payee, payees),
        Uint8Array.of(CREDIT_ROLES.indexOf(credit.role)),
        encodeInt(credit.ppm),
        encodeInt(credit.amountMicroUsd),
      ]),
      ...(merge ? encodeMerge(merge, digests, payees) : []),
    ])
  }
}

function encodeMerge(
  { method, densityPpm, members }: AdapterMerge,
  digests: Map<Digest, number>,
  payees: Map<Address, number>,
): readonly Uint8Array[] {
  return [
    Uint8Array.of(MERGE_METHODS.indexOf(method)),
    encodeInt(densityPpm ?? 0),
    encodeInt(members.length),
    ...members.flatMap(({ digest, owner, weightPpm }) => [
      encodeReference(digest, digests),
      encodeInt(weightPpm),
      Uint8Array.of(owner === null ? 0 : 1),
      ...(owner === null ? [] : [encodeReference(owner, payees)]),
    ]),
  ]
}

/** A payload of what `encodeEntries` gave, from the first on. */
export function joinPayload(chunks: readonly Uint8Array[]): Uint8Array {
  const header = new Uint8Array(HEADER_BYTES)
  header.set(new TextEncoder().encode(MAGIC))
  new DataView(header.buffer).setUint32(4, chunks.length)
  return concatBytes([header, ...chunks])
}

/** The size of a payload whose entries have this size, bytes. */
export function payloadSizeBytes(entriesSizeBytes: number): number {
  return HEADER_BYTES + entriesSizeBytes
}

export type DecodedPayload =
  | { readonly outcome: 'decoded'; readonly entries: readonly BatchEntry[] }
  | { readonly outcome: 'malformed'; readonly reason: string; readonly offset: number }

/** Reads a payload. Accepts exactly what `encodeBatchPayload` writes: no second spelling of anything. */
export function decodeBatchPayload(payload: Uint8Array): DecodedPayload {
  const reader = createByteReader(payload)
  try {
    if (UTF8.decode(reader.bytes(4)) !== MAGIC) {
      throw new MalformedBytes('not a batch payload of version 1')
    }
    const leafCount = reader.uint32()
    const tables = { digests: createTable(), payees: createTable() }
    const entries: BatchEntry[] = []
    const requestIds = new Set<string>()
    while (entries.length < leafCount) {
      const entry = decodeEntry(reader, tables)
      if (requestIds.has(entry.leaf.requestId)) {
        throw new MalformedBytes(`${entry.leaf.requestId} occurs twice`)
      }
      requestIds.add(entry.leaf.requestId)
      entries.push(entry)
    }
    if (reader.offset() !== payload.length) throw new MalformedBytes('bytes after the last leaf')
    return { outcome: 'decoded', entries }
  } catch (error) {
    if (!(error instanceof MalformedBytes)) throw error
    return { outcome: 'malformed', reason: error.message, offset: reader.offset() }
  }
}

/** The values that were spelled out so far. */
interface Table {
  readonly values: string[]
  readonly known: Set<string>
}

const createTable = (): Table => ({ values: [], known: new Set() })

function decodeEntry(
  reader: ByteReader,
  { digests, payees }: { readonly digests: Table; readonly payees: Table },
): BatchEntry {
  const version = reader.uint8()
  const requestId = UTF8.decode(reader.bytes(reader.uint8()))
  const fields = {
    version,
    requestId: REQUEST_ID_PREFIX + requestId,
    accountCommitment: decodeReference(reader, digests, 32),
    completedAtMs: reader.int(),
    modelDigest: decodeReference(reader, digests, 32),
    adapterDigest: decodeReference(reader, digests, 32),
    promptTokens: reader.int(),
    cachedTokens: reader.int(),
    completionTokens: reader.int(),
    feeMicroUsd: reader.int(),
    priceVersion: reader.int(),
    splitVersion: reader.int(),
    attributionDigest: decodeReference(reader, digests, 32),
    contentCommitment: bytesToHex(reader.bytes(32)),
  }
  const creditCount = reader.int()
  const credits: Credit[] = []
  while (credits.length < creditCount) credits.push(decodeCredit(reader, payees))
  const leaf = usageLeafSchema.safeParse({ ...fields, creditsHash: hashCredits(credits) })
  if (!leaf.success) throw new MalformedBytes(describeIssue(leaf.error))
  const merge = leaf.data.version === 2 ? decodeMerge(reader, { digests, payees }) : null
  if (opensAdapter(leaf.data, merge)) return { leaf: leaf.data, credits, merge }
  throw new MalformedBytes('the adapter digest is not that of the merge')
}

function decodeMerge(
  reader: ByteReader,
  { digests, payees }: { readonly digests: Table; readonly payees: Table },
): AdapterMerge {
  const method = MERGE_METHODS[reader.uint8()]
  const densityPpm = reader.int() || null
  const memberCount = reader.int()
  const members: unknown[] = []
  while (members.length < memberCount) {
    const digest = decodeReference(reader, digests, 32)
    const weightPpm = reader.int()
    const ownerCount = reader.uint8()
    if (ownerCount > 1) throw new MalformedBytes('an adapter has at most one owner')
    const owner = ownerCount === 0 ? null : decodeReference(reader, payees, 20)
    members.push({ digest, owner, weightPpm })
  }
  const merge = adapterMergeSchema.safeParse({ method, densityPpm, members })
  if (!merge.success) throw new MalformedBytes(describeIssue(merge.error))
  return merge.data
}

function decodeCredit(reader: ByteReader, payees: Table): Credit {
  const credit = creditSchema.safeParse({
    payee: decodeReference(reader, payees, 20),
    role: CREDIT_ROLES[reader.uint8()],
    ppm: reader.int(),
    amountMicroUsd: reader.int(),
  })
  if (!credit.success) throw new MalformedBytes(describeIssue(credit.error))
  return credit.data
}

function decodeReference(reader: ByteReader, table: Table, sizeBytes: number): string {
  const place = reader.int()
  if (place > 0) {
    const value = table.values[place - 1]
    if (value === undefined) throw new MalformedBytes(`there is no value ${place} to refer to`)
    return value
  }
  const value = bytesToHex(reader.bytes(sizeBytes))
  if (table.known.has(value)) throw new MalformedBytes('spells out a known value again')
  table.known.add(value)
  table.values.push(value)
  return value
}

function encodeReference<Value extends Digest | Address>(
  value: Value,
  table: Map<Value, number>,
): Uint8Array {
  const place = table.get(value)
  if (place !== undefined) return encodeInt(place)
  table.set(value, table.size + 1)
  return concatBytes([Uint8Array.of(0), hexToBytes(value)])
}

function encodeInt(value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new RangeError(`${value} is no whole number of 0 or more.`)
  }
  const bytes: number[] = []
  let rest = value
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80)
    rest = Math.floor(rest / 0x80)
  }
  return Uint8Array.from([...bytes, rest])
}

function describeIssue(error: { issues: readonly { path: PropertyKey[]; message: string }[] }) {
  const [issue] = error.issues
  return `${issue?.path.join('.')}: ${issue?.message}`
}
