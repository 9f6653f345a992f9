import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { type StepResult, VERIFY_STEPS, verifyReceipt } from '../protocol/verify-receipt.ts'
import { readStackFile } from './stack-file.ts'
import { createArchiveSource, createChainSource, createDaSource } from './verify-sources.ts'

const USAGE = `npm run verify -- receipt.json [options]
  --state DIR      state folder of a running npm start, whose chain, DA and archive are asked
                   where no other is named (.tallygate)
  --rpc URL        JSON-RPC of the chain that the receipt names
  --da URL         EigenDA proxy to read the batch payload from
  --archive PLACE  folder or URL that has batch payloads under their keccak256; asked after --da
  --skip chain     do not check what needs the chain: the receipt is then worth little
  --skip payload   do not check what needs the batch payload
  --contract 0x…   the operator's contract, as you know it; without it the receipt's word is taken
  --json           print the steps as JSON
Exit code 0: every step passed or was skipped by --skip. 1: a step failed. 2: wrong usage.`

const MARKS = { passed: '✓', failed: '✗', skipped: '–' } as const

/** `npm run verify`: checks a receipt without asking the operator for anything. */
async function main(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      state: { type: 'string', default: '.tallygate' },
      rpc: { type: 'string' },
      da: { type: 'string' },
      archive: { type: 'string' },
      skip: { type: 'string', multiple: true, default: [] },
      contract: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const [path, ...rest] = positionals
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  if (path === undefined || rest.length > 0) throw new Error('Name one receipt file.')
  const skip = new Set(values.skip)
  for (const part of skip) {
    if (part !== 'chain' && part !== 'payload') {
      throw new Error(`--skip takes "chain" or "payload", not "${part}".`)
    }
  }
  const local = await readStackFile(values.state)
  const { rpc = local?.rpcUrl, da = local?.daUrl, archive = local?.archiveUrl } = values
  const results = await verifyReceipt(await readReceipt(path), {
    chain: skip.has('chain') ? null : createChainSource(rpc),
    payloadSources: skip.has('payload')
      ? null
      : [
          ...(da === undefined ? [] : [createDaSource(da)]),
          ...(archive === undefined ? [] : [createArchiveSource(archive)]),
        ],
    contract: values.contract?.toLowerCase() ?? null,
  })
  console.log(values.json ? JSON.stringify(summarise(results)) : describe(results))
  return summarise(results).failedStep === null ? 0 : 1
}

async function readReceipt(path: string): Promise<unknown> {
  const text = await readFile(path, 'utf8')
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`, { cause: error })
  }
}

function summarise(results: readonly StepResult[]) {
  const failedStep = results.find((result) => result.outcome === 'failed')?.step ?? null
  return { ok: failedStep === null, failedStep, steps: results }
}

function describe(results: readonly StepResult[]): string {
  const width = Math.max(...VERIFY_STEPS.map((step) => step.length))
  const lines = results.map(
    ({ step, outcome, detail }) => `${MARKS[outcome]} ${step.padEnd(width)}  ${detail}`,
  )
  const { failedStep } = summarise(results)
  const skipped = results.filter((result) => result.outcome === 'skipped').map(({ step }) => step)
  const verdict =
    failedStep !== null
      ? `FAILED at step "${failedStep}".`
      : skipped.length > 0
        ? `Passed as far as checked. NOT checked: ${skipped.join(', ')}.`
        : 'The receipt is true.'
  return [...lines, '', verdict].join('\n')
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  console.error(`${error instanceof Error ? error.message : error}\n\n${USAGE}`)
  process.exitCode = 2
}
