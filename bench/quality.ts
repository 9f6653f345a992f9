import { readFile } from 'node:fs/promises'
import { createModelRunner } from '../gpu-backend/compute/model-runner.ts'
import type { Precision } from '../gpu-backend/model/model-source.ts'
import { openModel } from '../gpu-backend/model/open-model.ts'
import { createTokenizer } from '../gpu-backend/text/tokenizer.ts'

export interface Quality {
  /** Tokens that were predicted. */
  readonly tokenCount: number
  /** How often the most likely token is fp32's. */
  readonly top1Agreement: number
  /** Mean KL(fp32 ‖ this) of the predictions, in nats. */
  readonly meanKl: number
  readonly perplexity: number
  readonly fp32Perplexity: number
}

export type QualityByPrecision = Readonly<Record<Exclude<Precision, 'fp32'>, Quality>>

/**
 * What the quantised precisions lose against fp32 weights and activations of the same model file, on the
 * paragraphs of `quality-text.txt`, each read token by token as in decoding. Prints it as prose,
 * and returns it.
 */
export async function measureQuality(
  modelPath: string,
  threadCount: number,
): Promise<QualityByPrecision> {
  const text = await readFile(new URL('./quality-text.txt', import.meta.url), 'utf8')
  const paragraphs = text.trim().split('\n\n')
  const predict = (precision: Precision) =>
    predictParagraphs(paragraphs, { modelPath, precision, threadCount })
  const exact = await predict('fp32')
  const measure = async (precision: Precision) => {
    const quality = compare(exact, await predict(precision))
    const percent = (100 * quality.top1Agreement).toFixed(1)
    console.log(
      `${precision} against fp32 on ${quality.tokenCount} tokens of English: the most likely token is the ` +
        `same in ${percent} %, mean KL ${quality.meanKl.toExponential(1)}, perplexity ` +
        `${quality.perplexity.toFixed(2)} against ${quality.fp32Perplexity.toFixed(2)}.`,
    )
    return quality
  }
  return { int8: await measure('int8'), int4: await measure('int4') }
}

interface Prediction {
  /** [V] float32. */
  readonly logits: Float32Array
  /** The token that follows in the text. */
  readonly next: number
}

interface PredictOptions {
  readonly modelPath: string
  readonly precision: Precision
  readonly threadCount: number
}

/** The paragraphs run side by side, one token of each a step. */
async function predictParagraphs(
  paragraphs: readonly string[],
  { modelPath, precision, threadCount }: PredictOptions,
): Promise<Prediction[]> {
  const source = await openModel(modelPath, { precision })
  const tokenizer = createTokenizer(source.tokenizer)
  const texts = paragraphs.map((paragraph) => tokenizer.encode(paragraph, { specials: false }))
  const pageTokens = texts.reduce((sum, { length }) => sum + 64 * Math.ceil(length / 64), 0)
  const options = { executionProvider: 'cpu', threadCount, kvBudgetTokens: pageTokens } as const
  const runner = await createModelRunner(source, options)
  let pageCount = 0
  const rows = texts.map((tokens) => {
    const kv = runner.createKvRow()
    while (kv.capacity < tokens.length) runner.addKvPage(kv, pageCount++, 'empty')
    return { tokens, kv }
  })
  const predictions: Prediction[] = []
  for (let position = 0; ; position++) {
    const step = rows.flatMap(({ tokens, kv }) => {
      const [token, next] = tokens.slice(position)
      return token !== undefined && next !== undefined ? [{ kv, token, next }] : []
    })
    if (step.length === 0) break
    const logits = await runner.run(
      step.map(({ kv, token }) => ({
        kv,
        tokens: Int32Array.of(token),
        adapter: null,
        wantLogits: true,
      })),
    )
    step.forEach(({ next }, i) => {
      const row = logits[i]
      if (row) predictions.push({ logits: row.slice(), next })
    })
  }
  await runner.close()
  return predictions
}

function compare(exact: readonly Prediction[], fast: readonly Prediction[]): Quality {
  let agreedCount = 0
  let kl = 0
  let exactLoss = 0
  let fastLoss = 0
  exact.forEach(({ logits, next }, i) => {
    const expected = logProbabilities(logits)
    const actual = logProbabilities(fast[i]?.logits ?? new Float32Array(logits.length))
    if (argmax(expected) === argmax(actual)) agreedCount += 1
    expected.forEach((value, token) => {
      kl += Math.exp(value) * (value - (actual[token] ?? 0))
    })
    exactLoss -= expected[next] ?? 0
    fastLoss -= actual[next] ?? 0
  })
  const tokenCount = exact.length
  return {
    tokenCount,
    top1Agreement: agreedCount / tokenCount,
    meanKl: kl / tokenCount,
    perplexity: Math.exp(fastLoss / tokenCount),
    fp32Perplexity: Math.exp(exactLoss / tokenCount),
  }
}

function logProbabilities(logits: Float32Array): Float64Array {
  const values = Float64Array.from(logits)
  const highest = values.reduce((most, value) => Math.max(most, value))
  const total = values.reduce((sum, value) => sum + Math.exp(value - highest), 0)
  return values.map((value) => value - highest - Math.log(total))
}

function argmax(values: Float64Array): number {
  return values.indexOf(values.reduce((most, value) => Math.max(most, value)))
}

if (import.meta.main) {
  const [modelPath] = process.argv.slice(2)
  if (modelPath === undefined) throw new Error('usage: node bench/quality.ts MODEL')
  console.log(JSON.stringify(await measureQuality(modelPath, 2)))
}
