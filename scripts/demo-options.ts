import { parseArgs } from 'node:util'
import type { GatewayAccess } from './demo-client.ts'

export interface DemoOptions {
  /** Null: the first of the datanet's demo questions, whose right answer is known. */
  readonly question: string | null
  /** Where the receipt is written. */
  readonly receiptFile: string
  /** What to start, or which running installation to use. */
  readonly target:
    | { readonly kind: 'own'; readonly startArgs: readonly string[] }
    | { readonly kind: 'running'; readonly stack: DemoStack }
}

/** A running installation, as far as the demo needs it. */
export interface DemoStack extends GatewayAccess {
  readonly rpcUrl: string
  readonly daUrl: string
  /** The operator's contract; null: the receipt's word is taken. */
  readonly contracts: { readonly usageAnchor: string | null }
}

export const DEMO_USAGE = `npm run demo -- [options]
  --question TEXT       ask this instead of the demo's own question
  --receipt FILE        where the receipt is written (demo-receipt.json in the state folder)
  --port N, --state DIR, --precision int8|int4|fp32
                        of the installation that the demo starts and ends, as for npm start
  --base-url URL --api-key KEY --admin-key KEY --rpc URL --da URL [--contract 0x…]
                        use this running installation instead (npm start -- --json prints them)`

const RUNNING_OPTIONS = ['base-url', 'api-key', 'admin-key', 'rpc', 'da'] as const

/** Reads the command line; throws an error that names the option at fault. */
export function parseDemoOptions(args: readonly string[]): DemoOptions | 'help' {
  const { values } = parseArgs({
    args: [...args],
    options: {
      question: { type: 'string' },
      receipt: { type: 'string' },
      port: { type: 'string', default: '0' },
      state: { type: 'string', default: '.tallygate' },
      precision: { type: 'string', default: 'int8' },
      'base-url': { type: 'string' },
      'api-key': { type: 'string' },
      'admin-key': { type: 'string' },
      rpc: { type: 'string' },
      da: { type: 'string' },
      contract: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return 'help'
  const common = {
    question: values.question ?? null,
    receiptFile: values.receipt ?? `${values.state}/demo-receipt.json`,
  }
  if (RUNNING_OPTIONS.every((name) => values[name] === undefined)) {
    const { port, state, precision } = values
    const startArgs = ['--port', port, '--state', state, '--precision', precision]
    return { ...common, target: { kind: 'own', startArgs } }
  }
  const read = (name: (typeof RUNNING_OPTIONS)[number]) => {
    const value = values[name]
    if (!value) throw new Error(`A running installation needs --${name} too.`)
    return value
  }
  const stack = {
    baseUrl: read('base-url'),
    apiKey: read('api-key'),
    adminKey: read('admin-key'),
    rpcUrl: read('rpc'),
    daUrl: read('da'),
    contracts: { usageAnchor: values.contract ?? null },
  }
  return { ...common, target: { kind: 'running', stack } }
}
