import { availableParallelism } from 'node:os'
import { z } from 'zod'
import { PRECISIONS } from './model/model-source.ts'

const count = (min: number, max: number) => z.coerce.number().int().min(min).max(max)

/** Every variable of the backend: unit, default and meaning when absent are in its description, and `.env.example` is made from them. */
export const backendConfigSchema = z.object({
  MODEL: z
    .string()
    .min(1)
    .describe('GGUF file or Hugging Face folder of a Llama-family model. Path; must be given.'),
  PRECISION: z
    .enum(PRECISIONS)
    .optional()
    .describe(
      'int8: rotated rows, fastest on CPUs. int4: blocks, three quarters of the memory. fp32: exact weights, the referee. Default int8 on cpu, else int4.',
    ),
  EXECUTION_PROVIDER: z
    .enum(['cpu', 'webgpu', 'cuda'])
    .default('cpu')
    .describe(
      'Where ONNX Runtime runs the model; the start fails where it is missing. Default cpu.',
    ),
  THREADS: count(1, 1024)
    .default(availableParallelism())
    .describe('CPU threads of a step. Default: one a core.'),
  KV_TOKENS: count(64, 1_000_000_000)
    .default(65_536)
    .describe(
      'Size of the KV cache, tokens of all running requests together and, as room is left, of earlier prompts; it also caps the context. Default 65536.',
    ),
  MAX_BATCH: count(1, 64)
    .default(32)
    .describe('Requests that run at the same time, choices counted apart. Default 32.'),
  MAX_QUEUE: count(1, 1_000_000)
    .default(256)
    .describe(
      'Requests that may wait besides; one more is answered 429, of the caller that has most waiting. One request has at most so many choices. Default 256.',
    ),
  MAX_WAIT_MS: count(1, 86_400_000)
    .default(120_000)
    .describe(
      'A request that was not begun after this long is answered 429, milliseconds. Default 120000.',
    ),
  PROMOTE_AFTER_MS: count(1, 86_400_000)
    .default(20_000)
    .describe(
      'After each such time since its arrival a request counts as one tier more urgent, milliseconds. Default 20000.',
    ),
  PREFIX_SHARING: z
    .enum(['tenant', 'everyone', 'nobody'])
    .default('tenant')
    .describe(
      'Whose earlier prompts spare a request the same beginning: of its own tenant, of everyone (a model whose prompts are public), of nobody. Default tenant.',
    ),
  HOST: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Address to listen on. Default 127.0.0.1, which only this machine reaches.'),
  PORT: count(0, 65_535)
    .default(8000)
    .describe('TCP port to listen on; 0 takes a free one. Default 8000.'),
  BACKEND_TOKEN: z
    .string()
    .min(16)
    .optional()
    .describe(
      'What callers must send as `authorization: Bearer`, on all paths but /health; at least 16 characters. Absent: everyone who reaches the port may call.',
    ),
  ADAPTERS_DIR: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Folder of PEFT adapters: those in it are registered at the start, and local ones come from it alone. Absent: no local adapters.',
    ),
  DATANETS_DIR: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Folder of the datanets that adapters name. Absent: an adapter that names one is rejected.',
    ),
  ADAPTER_STORE_DIR: z
    .string()
    .min(1)
    .optional()
    .describe(
      'Folder for uploaded and fetched adapters and for registrations by API, made when missing; one backend at a time. Absent: neither uploads nor fetches, and a restart forgets registrations by API.',
    ),
  ADAPTER_RAM_BYTES: count(1_024, 1_000_000_000_000)
    .default(2_147_483_648)
    .describe(
      'Memory for adapters, bytes; one adapter, and all pinned ones together, may take half. The least recently used make room. Default 2 GiB.',
    ),
  ADAPTER_DISK_BYTES: count(1_024, 100_000_000_000_000)
    .default(21_474_836_480)
    .describe(
      'Disk for uploaded and fetched adapters, bytes. The least recently used fetched ones make room. Default 20 GiB.',
    ),
  MAX_ADAPTERS: count(1, 1_000_000)
    .default(20_000)
    .describe('Adapters that are registered at once, rejected ones too. Default 20000.'),
  MAX_TENANT_ADAPTERS: count(1, 1_000_000)
    .default(100)
    .describe(
      'Adapters that one account may have registered, rejected ones too; the operator’s own are not counted. Default 100.',
    ),
  DATANET_DISK_BYTES: count(1_024, 1_000_000_000_000)
    .default(268_435_456)
    .describe(
      'Disk for the datanets that accounts sent, bytes; an index takes some fifteen times as much memory while an adapter names it. Default 256 MiB.',
    ),
  MAX_TENANT_DATANETS: count(1, 1_000_000)
    .default(16)
    .describe('Datanets that one account may have. Default 16.'),
  HF_ENDPOINT: z
    .url({ protocol: /^https?$/ })
    .default('https://huggingface.co')
    .describe(
      'Hugging Face hub that adapters are fetched from, and no other place. URL; default https://huggingface.co.',
    ),
  MAX_ADAPTER_BYTES: count(1, 10_000_000_000)
    .default(1_073_741_824)
    .describe('Largest adapter_model.safetensors that is read, bytes. Default 1 GiB.'),
  MAX_BODY_BYTES: count(1_024, 50_000_000)
    .default(4_194_304)
    .describe('Largest request body, bytes. Default 4 MiB.'),
  SHUTDOWN_GRACE_MS: count(0, 3_600_000)
    .default(10_000)
    .describe(
      'How long running requests may go on after SIGTERM or SIGINT, milliseconds. Default 10000.',
    ),
})

export type BackendConfig = Readonly<z.infer<typeof backendConfigSchema>>

/** A variable is missing or not valid; the message names it. */
export class ConfigError extends Error {
  constructor(message: string, options: ErrorOptions = {}) {
    super(message, options)
    this.name = 'ConfigError'
  }
}

/** Reads the environment. A variable that is set to nothing counts as absent. Throws {@link ConfigError}. */
export function readConfig(env: Readonly<Record<string, string | undefined>> = process.env) {
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))
  const parsed = backendConfigSchema.safeParse(given)
  if (parsed.success) return Object.freeze(parsed.data) satisfies BackendConfig
  const [issue] = parsed.error.issues
  const name = issue?.path.join('.') ?? ''
  throw new ConfigError(
    given[name] === undefined
      ? `The variable ${name} must be set: ${describe(name)}`
      : `The variable ${name} is not valid: ${issue?.message}. ${describe(name)}`,
  )
}

function describe(name: string): string {
  const shape: Readonly<Record<string, z.ZodType>> = backendConfigSchema.shape
  return shape[name]?.description ?? ''
}
