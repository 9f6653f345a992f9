import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { PRECISIONS, type Precision } from '../gpu-backend/model/model-source.ts'

/** What `npm start` was asked for. */
export interface StartOptions {
  /** Port of the gateway. */
  readonly port: number
  /** Where everything that must last is kept. */
  readonly stateDir: string
  /** Path of a model; null: SmolLM2-135M-Instruct, pulled once. */
  readonly model: string | null
  readonly precision: Precision
  /** Folder of PEFT adapters to register; null: the repository's, which fit the default model only. */
  readonly adaptersDir: string | null
  /** OpenAI-compatible server used instead of the own backend. */
  readonly upstreamUrl: string | null
  /** JSON-RPC of the chain to anchor on; null: a local one is started. */
  readonly rpcUrl: string | null
  /** EigenDA proxy; null: a local stand-in is started. */
  readonly daUrl: string | null
  readonly json: boolean
}

export const START_USAGE = `npm start -- [options]
  --port N              port of the gateway (8787)
  --state DIR           where accounts, usage, batches and the local chain are kept (.tallygate)
  --model PATH          GGUF file or Hugging Face folder of a Llama-family model
                        (default: SmolLM2-135M-Instruct, pulled once)
  --precision P         int8 is fastest, int4 smallest, fp32 the exact referee (int8)
  --adapters DIR        folder of PEFT adapters to register (adapters, with the default model)
  --upstream URL        use this OpenAI-compatible server instead of the own backend;
                        its key is read from UPSTREAM_API_KEY
  --rpc URL             anchor on this chain; the key is read from ANCHOR_PRIVATE_KEY, the
                        contract from ANCHOR_ADDRESS (deployed when absent)
  --da URL              use this EigenDA proxy
  --json                print one line of JSON when ready, and nothing else on stdout`

/** Reads the command line; throws an error that names the option at fault. */
export function parseStartOptions(args: readonly string[]): StartOptions | 'help' {
  const { values } = parseArgs({
    args: [...args],
    options: {
      port: { type: 'string', default: '8787' },
      state: { type: 'string', default: '.tallygate' },
      model: { type: 'string' },
      precision: { type: 'string', default: 'int8' },
      adapters: { type: 'string' },
      upstream: { type: 'string' },
      rpc: { type: 'string' },
      da: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return 'help'
  const precision = PRECISIONS.find((name) => name === values.precision)
  if (!precision) {
    throw new Error(`--precision must be ${PRECISIONS.join(', ')}, not "${values.precision}".`)
  }
  if (values.upstream !== undefined && values.model !== undefined) {
    throw new Error('--upstream and --model exclude each other: the upstream brings its own model.')
  }
  return {
    port: parsePort(values.port),
    stateDir: resolve(values.state),
    model: values.model === undefined ? null : resolve(values.model),
    precision,
    adaptersDir: values.adapters === undefined ? null : resolve(values.adapters),
    upstreamUrl: parseUrl('--upstream', values.upstream),
    rpcUrl: parseUrl('--rpc', values.rpc),
    daUrl: parseUrl('--da', values.da),
    json: values.json,
  }
}

function parsePort(text: string): number {
  const port = Number(text)
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new Error(`--port must be a number from 0 to 65535, not "${text}".`)
  }
  return port
}

function parseUrl(option: string, text: string | undefined): string | null {
  if (text === undefined) return null
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
    throw new Error(`${option} must be an http or https URL, not "${text}".`)
  }
  return text.replace(/\/+$/, '')
}
