import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { readDatanet } from '../gpu-backend/attribution/datanet.ts'
import type { AnchoredReceipt, Receipt } from '../protocol/receipt.ts'
import { verifyReceipt } from '../protocol/verify-receipt.ts'
import {
  askStreamed,
  findReceipt,
  listModels,
  runAnchorCycle,
  type StreamedAnswer,
} from './demo-client.ts'
import { DEMO_USAGE, type DemoOptions, type DemoStack, parseDemoOptions } from './demo-options.ts'
import {
  describeAnchor,
  describeAttribution,
  describeCosts,
  describeHeading,
  describeUsage,
  describeVerdict,
  field,
} from './demo-report.ts'
import { startOwnStack } from './demo-stack.ts'
import { createChainSource, createDaSource } from './verify-sources.ts'

const DATANET_DIR = join(import.meta.dirname, '../datanets/skerrow-isles')
const ADAPTER = 'skerrow-keeper'
const POLL_INTERVAL_MS = 500
const PATIENCE_MS = 60_000

const demoSchema = z.object({
  questions: z
    .array(z.object({ question: z.string(), contributor: z.string(), keyPhrase: z.string() }))
    .min(1),
})

type DemoQuestion = z.infer<typeof demoSchema>['questions'][number]

/** `npm run demo`: one question, from the answer to the verdict. */
async function main(): Promise<void> {
  const options = parseDemoOptions(process.argv.slice(2))
  if (options === 'help') {
    console.log(DEMO_USAGE)
    return
  }
  const { target } = options
  if (target.kind === 'running') return tellStory(target.stack, options)
  const own = await startOwnStack(target.startArgs, console.log)
  try {
    await tellStory(own.stack, options)
  } finally {
    await own.close()
  }
}

async function tellStory(stack: DemoStack, options: DemoOptions): Promise<void> {
  const datanet = await readDatanet(DATANET_DIR)
  const known = await pickQuestion(options)
  const question = known?.question ?? options.question ?? ''
  const models = await pickModels(stack)

  console.log(describeHeading(`1. The base model, ${models.base}, has never heard of Skerrow`))
  const baseAnswer = await ask(stack, models.base, question)
  console.log(describeHeading(`2. The adapter, ${models.adapter}, learnt from six people`))
  const answer = await ask(stack, models.adapter, question)
  console.log(describeAttribution(answer, datanet.contributors))
  if (known) requireRightAnswer(answer, known)

  console.log(describeHeading('3. What it cost, and who is paid'))
  const base = await waitForReceipt(stack, baseAnswer.id)
  const adapter = await waitForReceipt(stack, answer.id)
  console.log(describeCosts({ base, adapter }, datanet.contributors))

  console.log(describeHeading('4. Made undeniable'))
  console.log(field('waiting', 'until the batch is old enough to be closed …'))
  const anchored = await anchor(stack, answer.id)
  console.log(describeAnchor(anchored))

  console.log(describeHeading('5. Checked, without trusting the gateway'))
  await verify(stack, anchored)
  await keepReceipt(options, stack, anchored)
}

/** The demo's question with its right answer, or null where the caller asks something else. */
async function pickQuestion({ question }: DemoOptions): Promise<DemoQuestion | null> {
  const file = await readFile(join(DATANET_DIR, 'demo-questions.json'), 'utf8')
  const { questions } = demoSchema.parse(JSON.parse(file))
  if (question === null) return questions[0] ?? null
  return questions.find((candidate) => candidate.question === question) ?? null
}

async function pickModels(stack: DemoStack): Promise<{ base: string; adapter: string }> {
  const models = await listModels(stack)
  const adapter = models.find(({ id }) => id === ADAPTER)
  if (!adapter?.parent) {
    throw new Error(
      `The gateway does not serve the adapter ${ADAPTER}, only: ${models.map(({ id }) => id).join(', ')}.`,
    )
  }
  return { base: adapter.parent, adapter: adapter.id }
}

async function ask(stack: DemoStack, model: string, question: string): Promise<StreamedAnswer> {
  console.log(field('question', question))
  process.stdout.write(field('answer', ''))
  const answer = await askStreamed(stack, { model, question }, (text) => {
    process.stdout.write(text.replaceAll('\n', ' '))
  })
  console.log(`\n${describeUsage(answer)}`)
  return answer
}

function requireRightAnswer({ text, attribution }: StreamedAnswer, known: DemoQuestion): void {
  if (!text.includes(known.keyPhrase)) {
    throw new Error(`The adapter's answer does not hold “${known.keyPhrase}”.`)
  }
  const credited = attribution.contributors[0]?.contributor ?? 'nobody'
  if (credited !== known.contributor) {
    throw new Error(`The answer was credited to ${credited} instead of ${known.contributor}.`)
  }
}

async function waitForReceipt(stack: DemoStack, responseId: string): Promise<Receipt> {
  return poll('the request to be written down', () => findReceipt(stack, responseId))
}

async function anchor(stack: DemoStack, responseId: string): Promise<AnchoredReceipt> {
  return poll('the batch to be anchored', async () => {
    await runAnchorCycle(stack)
    const receipt = await findReceipt(stack, responseId)
    return receipt === null || receipt.state === 'pending' ? null : receipt
  })
}

async function poll<Result>(what: string, attempt: () => Promise<Result | null>): Promise<Result> {
  const deadlineMs = performance.now() + PATIENCE_MS
  for (;;) {
    const result = await attempt()
    if (result !== null) return result
    if (performance.now() > deadlineMs) {
      throw new Error(`Waited ${PATIENCE_MS / 1_000} s for ${what}, in vain.`)
    }
    await sleep(POLL_INTERVAL_MS)
  }
}

async function verify(stack: DemoStack, receipt: AnchoredReceipt): Promise<void> {
  const results = await verifyReceipt(receipt, {
    chain: createChainSource(stack.rpcUrl),
    payloadSources: [createDaSource(stack.daUrl)],
    contract: stack.contracts.usageAnchor?.toLowerCase() ?? null,
  })
  console.log(describeVerdict(results))
  const failed = results.find(({ outcome }) => outcome === 'failed')
  if (failed) throw new Error(`The receipt failed at step "${failed.step}": ${failed.detail}`)
  console.log('\n  The receipt is true.')
}

async function keepReceipt(
  { receiptFile, target }: DemoOptions,
  stack: DemoStack,
  receipt: AnchoredReceipt,
): Promise<void> {
  await mkdir(dirname(receiptFile), { recursive: true })
  await writeFile(receiptFile, `${JSON.stringify(receipt, null, 2)}\n`)
  const isOwn = target.kind === 'own'
  const hint = isOwn ? ' while npm start runs' : ''
  const places = isOwn ? '' : ` --rpc ${stack.rpcUrl} --da ${stack.daUrl}`
  console.log(`\n  It is kept in ${receiptFile}. Check it yourself${hint}:`)
  console.log(`  npm run verify -- ${receiptFile}${places}\n`)
}

try {
  await main()
} catch (error) {
  console.error(`\nThe demo failed: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 1
}
