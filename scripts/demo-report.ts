import type { Contributor } from '../gpu-backend/attribution/datanet.ts'
import type { AnchoredReceipt, Receipt } from '../protocol/receipt.ts'
import type { StepResult } from '../protocol/verify-receipt.ts'
import type { StreamedAnswer } from './demo-client.ts'

/** What a newcomer reads. Pure: text in, text out. */

const WIDTH = 88

export function describeHeading(text: string): string {
  return `\n── ${text} ${'─'.repeat(Math.max(0, WIDTH - text.length - 4))}\n`
}

export function describeUsage({ usage, firstTokenMs, totalMs }: StreamedAnswer): string {
  const speed = usage.completion_tokens / ((totalMs - firstTokenMs) / 1_000)
  return field(
    'usage',
    `${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out; ` +
      `first token after ${firstTokenMs.toFixed(0)} ms, then ${speed.toFixed(0)} a second`,
  )
}

/** The spans of an answer that stand in somebody's data, and each contributor's weight. */
export function describeAttribution(
  { text, attribution }: StreamedAnswer,
  contributors: ReadonlyMap<string, Contributor>,
): string {
  if (attribution.contributors.length === 0) {
    return field('data', "nobody's: no contributor's data supports this answer")
  }
  const nameOf = (id: string) => contributors.get(id)?.name ?? id
  const lines = attribution.contributors.map(({ contributor, weight_ppm }) => {
    const spans = attribution.spans.filter((span) => span.contributor === contributor)
    const quotes = spans.map(
      ({ start, end, datum_id }) => `\n${field('', `“${text.slice(start, end)}”  (${datum_id})`)}`,
    )
    return `${nameOf(contributor)}: ${weight_ppm} ppm, for the words${quotes.join('')}`
  })
  return field('data', lines.join(`\n${field('', '')}`))
}

/** What both answers cost, and the fee split of the adapter's, a line a payee. */
export function describeCosts(
  { base, adapter }: { readonly base: Receipt; readonly adapter: Receipt },
  contributors: ReadonlyMap<string, Contributor>,
): string {
  const nameOfPayee = new Map(
    Array.from(contributors.values(), ({ payee, name }) => [payee, name] as const),
  )
  const shares = adapter.credits.map(({ payee, role, ppm, amountMicroUsd }) => {
    const name = role === 'contributor' ? (nameOfPayee.get(payee) ?? role) : role.replace('_', ' ')
    const share = `${(ppm / 10_000).toFixed(4)} %`
    return field('', `${formatUsd(amountMicroUsd)}  ${share.padStart(10)}  ${payee}  ${name}`)
  })
  return [
    field('base', `${formatUsd(base.leaf.feeMicroUsd)}`),
    field(
      'adapter',
      `${formatUsd(adapter.leaf.feeMicroUsd)}, split by rule ${adapter.leaf.splitVersion}:`,
    ),
    ...shares,
  ].join('\n')
}

export function describeAnchor({ batch, anchor, da, leaf }: AnchoredReceipt): string {
  const da_ = da.kind === 'eigenda' ? shorten(da.commitment) : 'none: the DA layer was down'
  return [
    field('request', leaf.requestId),
    field(
      'batch',
      `${batch.id}, leaf ${batch.leafIndex} of ${batch.leafCount}, root ${batch.root}`,
    ),
    field('EigenDA', da_),
    field('tx', `${anchor.txHash} in block ${anchor.blockNumber}`),
    field('contract', `${anchor.contract} on chain ${anchor.chainId}`),
  ].join('\n')
}

export function describeVerdict(results: readonly StepResult[]): string {
  const marks = { passed: '✓', failed: '✗', skipped: '–' }
  return results
    .map(({ step, outcome, detail }) => `  ${marks[outcome]} ${step.padEnd(12)} ${detail}`)
    .join('\n')
}

export function field(name: string, text: string): string {
  return `  ${name.padEnd(10)}${text}`
}

function formatUsd(microUsd: number): string {
  return `$${(microUsd / 1_000_000).toFixed(6)}`
}

function shorten(hex: string): string {
  return hex.length <= 70 ? hex : `${hex.slice(0, 66)}… (${hex.length / 2 - 1} bytes)`
}
