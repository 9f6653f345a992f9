import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { z } from 'zod'
import { backendConfigSchema } from '../gpu-backend/config.ts'
import { configSchema } from '../worker/config-schema.ts'

/** Writes `.env.example` from the two schemas; with `--check` it only says whether it is up to date. */

const path = join(import.meta.dirname, '../.env.example')
const text = [
  '# Made from worker/config-schema.ts and gpu-backend/config.ts by `npm run env-example`.',
  '',
  '# Gateway (wrangler vars and secrets, or .dev.vars)',
  ...describe(configSchema),
  '# Backend (environment)',
  ...describe(backendConfigSchema),
].join('\n')

if (process.argv.includes('--check')) {
  if ((await readFile(path, 'utf8').catch(() => '')) !== text) {
    console.error('.env.example is out of date: run npm run env-example.')
    process.exit(1)
  }
} else {
  await writeFile(path, text)
}

function describe(schema: z.ZodObject): string[] {
  return Object.entries(schema.shape).flatMap(([name, field]) => [
    `# ${(field as z.ZodType).description ?? ''}`, // shape values are zod types by construction
    `#${name}=`,
    '',
  ])
}
