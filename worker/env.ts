import type { z } from 'zod'
import { configSchema } from './config-schema.ts'

/** What the Durable Objects are handed too; the Worker's other bindings are in bindings.ts. */
export interface StorageBindings {
  readonly DB: D1Database
  readonly ARCHIVE: R2Bucket
}

export type Config = Readonly<z.output<typeof configSchema>>

const parsed = new WeakMap<object, Config>()

/** The Worker's variables, checked once an environment. Throws an error that names each variable at fault. */
export function parseConfig(env: object): Config {
  const known = parsed.get(env)
  if (known !== undefined) return known
  const result = configSchema.safeParse(env)
  if (!result.success) {
    const faults = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
    throw new Error(`Configuration: ${faults.join('; ')}`)
  }
  const config = Object.freeze(result.data)
  parsed.set(env, config)
  return config
}
