import { z } from 'zod'

/** The stand-in's faults on demand, in the names of the proxy's `/memstore/config`. */
export interface MemstoreConfig {
  readonly MaxBlobSizeBytes: number
  /** Go durations. */
  readonly BlobExpiration: string
  readonly PutLatency: string
  readonly GetLatency: string
  /** A put answers 503 at once. */
  readonly PutReturnsFailoverError: boolean
  /** What is put from now on answers 418 with this when it is read. */
  readonly OverwritePutWithDerivationError: {
    readonly StatusCode: number
    readonly Msg: string
  } | null
  readonly CertVersion: number
}

/** As the proxy starts, but blobs outlive the 25 minutes of its memory: these lie on a disk. */
export const DEFAULT_MEMSTORE_CONFIG: MemstoreConfig = {
  MaxBlobSizeBytes: 16_777_216,
  BlobExpiration: '336h0m0s',
  PutLatency: '0s',
  GetLatency: '0s',
  PutReturnsFailoverError: false,
  OverwritePutWithDerivationError: null,
  CertVersion: 0,
}

const durationSchema = z.string().regex(/^(\d+(ns|us|µs|ms|s|m|h))+$/, 'must be a Go duration')

const patchSchema = z
  .object({
    MaxBlobSizeBytes: z.int(),
    BlobExpiration: durationSchema,
    PutLatency: durationSchema,
    GetLatency: durationSchema,
    PutReturnsFailoverError: z.boolean(),
    NullableDerivationError: z.object({
      StatusCode: z.int(),
      Msg: z.string(),
      Reset: z.boolean(),
    }),
  })
  .partial()

/** The configuration after a `PATCH`; throws where a field cannot be read. */
export function patchMemstoreConfig(config: MemstoreConfig, body: unknown): MemstoreConfig {
  const { NullableDerivationError: derivation, ...fields } = patchSchema.parse(body)
  const given = Object.entries(fields).filter(([, value]) => value !== undefined)
  const patched = { ...config, ...Object.fromEntries(given) }
  for (const name of ['BlobExpiration', 'PutLatency', 'GetLatency'] as const) {
    patched[name] = formatDuration(parseDurationMs(patched[name]))
  }
  if (derivation === undefined) return patched
  const { Reset, ...error } = derivation
  return { ...patched, OverwritePutWithDerivationError: Reset ? null : error }
}

const UNIT_MS: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
}

/** A Go duration such as `1m30s` in milliseconds. */
export function parseDurationMs(duration: string): number {
  let total = 0
  for (const [, count, unit = ''] of duration.matchAll(/(\d+)(ns|us|µs|ms|s|m|h)/g)) {
    total += Number(count) * (UNIT_MS[unit] ?? 0)
  }
  return total
}

/** As Go prints a duration: `25m0s`, `1s`, `500ms`. */
function formatDuration(ms: number): string {
  if (ms > 0 && ms < 1_000) return `${ms}ms`
  const [hours, minutes, seconds] = [
    Math.floor(ms / 3_600_000),
    Math.floor(ms / 60_000) % 60,
    (ms / 1_000) % 60,
  ]
  if (hours > 0) return `${hours}h${minutes}m${seconds}s`
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`
}
