import type { z } from 'zod'
import { configSchema } from './config-schema.ts'

/** What the Durable Objects are handed too; the Worker's other bindings are in bindings.ts. */
export interface StorageBindings {
  readonly DB: D1Database
  readonly ARCHIVE: R2Bucket
}

export type Config = Readonly<z.output<typeof configSchema>>

let parsed: { readonly env: object; readonly config: Config } | undefined

/** The Worker's variables, checked once an isolate. Throws an error that names each variable at fault. */
export function parseConfig(env: object): Config {
  if (parsed?.env === env) return parsed.config
  const result = configSchema.safeParse(env)
  if (!result.success) {
    const faults = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new Error(`Configuration: ${faults.join('; ')}`)
  }
  parsed = { env, config: Object.freeze(result.data) }
  return parsed.config
}
