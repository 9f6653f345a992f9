import { keccak256 } from 'viem'
import { digestMerge } from './adapter-merge.ts'
import { type BatchEntry, decodeBatchPayload } from './batch-payload.ts'
import type { Address, Digest } from './digest.ts'
import { checkSplit, SPLIT_RULES } from './fee-split.ts'
import { verifyProof } from './merkle-proof.ts'
import { buildMerkleTree } from './merkle-tree.ts'
import { type AnchoredReceipt, type Receipt, receiptSchema } from './receipt.ts'
import { commitAccount, commitContent, hashCredits, hashUsageLeaf } from './usage-leaf.ts'

/** What is checked, in this order. */
export const VERIFY_STEPS = [
  'schema',
  'account',
  'content',
  'merge',
  'credits',
  'split',
  'proof',
  'chain',
  'anchor',
  'payload',
  'payload-leaf',
  'state',
] as const

export type VerifyStep = (typeof VERIFY_STEPS)[number]

interface Check {
  readonly outcome: 'passed' | 'failed' | 'skipped'
  /** What was found, or why not. */
  readonly detail: string
}

export interface StepResult extends Check {
  readonly step: VerifyStep
}

/** A `BatchAnchored` event, and where it stands on chain. */
export interface AnchorEvent {
  readonly contract: Address
  readonly blockNumber: number
  readonly batchId: number
  readonly root: Digest
  readonly leafCount: number
  readonly payloadHash: Digest
  /** `0x` where the payload is in the archive alone. */
  readonly daCommitment: `0x${string}`
}

/** The chain, as the verifier asks it. The methods reject where it cannot be reached. */
export interface ChainSource {
  readonly readChainId: () => Promise<number>
  /** The anchor events of a transaction; null where the chain knows none of that hash that succeeded. */
  readonly readAnchorEvents: (txHash: Digest) => Promise<readonly AnchorEvent[] | null>
  /** Null where the chain names no finalized block. */
  readonly readFinalizedBlockNumber: () => Promise<number | null>
}

/** A place where a payload may be: the DA layer, or an archive. */
export interface PayloadSource {
  readonly name: string
  readonly readPayload: (
    receipt: AnchoredReceipt,
  ) => Promise<
    | { readonly outcome: 'found'; readonly payload: Uint8Array }
    | { readonly outcome: 'not_found'; readonly reason: string }
  >
}

export interface VerifyOptions {
  /** Null skips the steps that need the chain. */
  readonly chain: ChainSource | null
  /** Asked one after the other. Null skips the steps that need the payload. */
  readonly payloadSources: readonly PayloadSource[] | null
  /** The operator's contract, lower case; null takes the receipt's word for it. */
  readonly contract: string | null
}

/**
 * Checks a receipt step by step and stops at the first that fails, so that the last result says how
 * it ended. It trusts the chain and keccak256, nothing else. That the contract is the operator's it
 * cannot know: name it in the options, or look at the one that the `anchor` step prints.
 */
export async function verifyReceipt(
  receipt: unknown,
  options: VerifyOptions,
): Promise<readonly StepResult[]> {
  const parsed = receiptSchema.safeParse(receipt)
  if (!parsed.success) return [{ step: 'schema', ...failed(describeIssues(parsed.error)) }]
  const results: StepResult[] = [{ step: 'schema', ...passed(`a receipt of version 1`) }]
  for (const [step, check] of listChecks(parsed.data, options)) {
    const result = { step, ...(await check()) }
    results.push(result)
    if (result.outcome === 'failed') break
  }
  return results
}

type NamedCheck = readonly [VerifyStep, () => Check | Promise<Check>]

function listChecks(receipt: Receipt, options: VerifyOptions): NamedCheck[] {
  const { chain, payloadSources, contract } = options
  const { leaf, credits, merge } = receipt
  const checkMerge: NamedCheck[] = merge
    ? [
        [
          'merge',
          () =>
            same('the digest of the merged adapters', leaf.adapterDigest, () => digestMerge(merge)),
        ],
      ]
    : []
  const local: NamedCheck[] = [
    [
      'account',
      () =>
        same('the commitment to the account', leaf.accountCommitment, () =>
          commitAccount(receipt.account.id, receipt.account.salt),
        ),
    ],
    [
      'content',
      () =>
        same('the commitment to prompt and answer', leaf.contentCommitment, () =>
          commitContent(receipt.content),
        ),
    ],
    ...checkMerge,
    [
      'credits',
      () => same('the hash of the credits', leaf.creditsHash, () => hashCredits(credits)),
    ],
    ['split', () => checkSplitRule(receipt)],
  ]
  if (receipt.state === 'pending') {
    const detail = 'the receipt is pending: its batch is not on chain yet, ask for a new one later'
    return [...local, ['proof', () => failed(detail)]]
  }
  let payload: Uint8Array | undefined
  const onChain: NamedCheck[] = [
    ['proof', () => checkProof(receipt)],
    ['chain', () => withSource(chain, (source) => checkChain(receipt, source))],
    ['anchor', () => withSource(chain, (source) => checkAnchor(receipt, source, contract))],
    [
      'payload',
      () =>
        withSource(payloadSources, async (sources) => {
          const found = await findPayload(receipt, sources)
          payload = found.payload
          return found.check
        }),
    ],
    [
      'payload-leaf',
      () => withSource(payload ?? null, (bytes) => checkPayloadLeaf(receipt, bytes)),
    ],
    ['state', () => withSource(chain, (source) => checkState(receipt, source))],
  ]
  return [...local, ...onChain]
}

function checkSplitRule({ leaf, credits, merge }: Receipt): Check {
  const rule = SPLIT_RULES[leaf.splitVersion]
  if (rule === undefined)
    return failed(`no split rule of version ${leaf.splitVersion} is published`)
  const check = checkSplit(credits, leaf.feeMicroUsd, rule, merge ?? null)
  if (check.outcome === 'wrong') return failed(check.reason)
  return passed(`${leaf.feeMicroUsd} micro-USD split by rule ${rule.version}, to the last unit`)
}

function checkProof({ leaf, batch }: AnchoredReceipt): Check {
  if (!verifyProof(batch.root, hashUsageLeaf(leaf), batch.proof)) {
    return failed('the leaf and the proof do not give the root')
  }
  return passed(`${batch.proof.length} siblings lead to the root ${batch.root}`)
}

async function checkChain({ anchor }: AnchoredReceipt, chain: ChainSource): Promise<Check> {
  const chainId = await chain.readChainId()
  if (chainId !== anchor.chainId) {
    return failed(`the chain asked is ${chainId}, the receipt is anchored on ${anchor.chainId}`)
  }
  return passed(`chain ${chainId}`)
}

async function checkAnchor(
  receipt: AnchoredReceipt,
  chain: ChainSource,
  contract: string | null,
): Promise<Check> {
  const { anchor, batch, da } = receipt
  if (contract !== null && contract !== anchor.contract) {
    return failed(`the receipt names the contract ${anchor.contract}, not ${contract}`)
  }
  const events = await chain.readAnchorEvents(anchor.txHash)
  if (events === null) return failed(`the chain knows no successful transaction ${anchor.txHash}`)
  const event = events.find((candidate) => candidate.batchId === batch.id)
  if (event === undefined) {
    return failed(`transaction ${anchor.txHash} does not anchor batch ${batch.id}`)
  }
  const daCommitment = da.kind === 'none' ? '0x' : da.commitment
  const claims = [
    ['contract', anchor.contract, event.contract],
    ['block number', anchor.blockNumber, event.blockNumber],
    ['root', batch.root, event.root],
    ['leaf count', batch.leafCount, event.leafCount],
    ['payload hash', batch.payloadHash, event.payloadHash],
    ['DA commitment', daCommitment, event.daCommitment],
  ] as const
  const wrong = claims.find(([, claimed, found]) => claimed !== found)
  if (wrong !== undefined) {
    const [name, claimed, found] = wrong
    return failed(`the ${name} on chain is ${found}, the receipt says ${claimed}`)
  }
  return passed(`batch ${batch.id} of contract ${anchor.contract} in block ${event.blockNumber}`)
}

const NO_PAYLOAD_SOURCE =
  'no source of the batch payload was named: give --da URL or --archive PLACE, or leave it out by --skip payload'

async function findPayload(
  receipt: AnchoredReceipt,
  sources: readonly PayloadSource[],
): Promise<{ readonly check: Check; readonly payload?: Uint8Array }> {
  const faults: string[] = []
  for (const source of sources) {
    const answer = await attempt(() => source.readPayload(receipt))
    if (answer.outcome === 'not_found') {
      faults.push(`${source.name}: ${answer.reason}`)
    } else if (keccak256(answer.payload) !== receipt.batch.payloadHash) {
      faults.push(`${source.name}: gave ${answer.payload.length} bytes of another keccak256`)
    } else {
      const detail = `${answer.payload.length} bytes from ${source.name}, keccak256 as anchored`
      return { check: passed(detail), payload: answer.payload }
    }
  }
  return { check: failed(faults.join('; ') || NO_PAYLOAD_SOURCE) }
}

function checkPayloadLeaf(receipt: AnchoredReceipt, payload: Uint8Array): Check {
  const { batch, leaf } = receipt
  const decoded = decodeBatchPayload(payload)
  if (decoded.outcome === 'malformed') {
    return failed(`the payload is malformed at byte ${decoded.offset}: ${decoded.reason}`)
  }
  const { entries } = decoded
  if (entries.length !== batch.leafCount) return failed(`the payload has ${entries.length} leaves`)
  const leafHashes = entries.map((entry: BatchEntry) => hashUsageLeaf(entry.leaf))
  if (leafHashes[batch.leafIndex] !== hashUsageLeaf(leaf)) {
    return failed(`the payload's leaf ${batch.leafIndex} is another one`)
  }
  if (buildMerkleTree(leafHashes).root !== batch.root) {
    return failed("the payload's leaves have another root")
  }
  return passed(`leaf ${batch.leafIndex} of ${batch.leafCount}, which together give the root`)
}

async function checkState({ state, anchor }: AnchoredReceipt, chain: ChainSource): Promise<Check> {
  const finalized = await chain.readFinalizedBlockNumber()
  const isFinal = finalized !== null && anchor.blockNumber <= finalized
  if (state === 'final' && !isFinal) {
    return failed(`block ${anchor.blockNumber} is not final, the chain's last is ${finalized}`)
  }
  return passed(isFinal ? 'in a final block' : 'in a block that is not final yet')
}

/** Runs a check that needs a source; skips it without one, fails it where the source fails. */
async function withSource<Source>(
  source: Source | null,
  check: (source: Source) => Check | Promise<Check>,
): Promise<Check> {
  if (source === null) return { outcome: 'skipped', detail: 'NOT CHECKED' }
  const result = await attempt(() => check(source))
  return result.outcome === 'not_found' ? failed(result.reason) : result
}

/** What the call gives; a source that fails to answer is one that does not have it. */
async function attempt<Result>(
  call: () => Result | Promise<Result>,
): Promise<Result | { readonly outcome: 'not_found'; readonly reason: string }> {
  try {
    return await call()
  } catch (error) {
    return { outcome: 'not_found', reason: error instanceof Error ? error.message : String(error) }
  }
}

function same(what: string, claimed: Digest, compute: () => Digest): Check {
  const computed = compute()
  if (computed !== claimed) return failed(`${what} is ${computed}, the leaf says ${claimed}`)
  return passed(`${what} is ${claimed}`)
}

const passed = (detail: string): Check => ({ outcome: 'passed', detail })

const failed = (detail: string): Check => ({ outcome: 'failed', detail })

function describeIssues(error: {
  readonly issues: readonly { readonly path: PropertyKey[]; readonly message: string }[]
}): string {
  return error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ')
}
