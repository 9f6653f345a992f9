import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import type { DemoStack } from './demo-options.ts'

const START_SCRIPT = join(import.meta.dirname, 'start.ts')

const stackSchema = z.object({
  baseUrl: z.url(),
  apiKey: z.string(),
  adminKey: z.string(),
  rpcUrl: z.url(),
  daUrl: z.url(),
  contracts: z.object({ usageAnchor: z.string() }),
})

export interface OwnStack {
  readonly stack: DemoStack
  readonly close: () => Promise<void>
}

/**
 * Runs `npm start` with these arguments beside the demo, in a process of its own so that its logs
 * do not get between the lines of the story. `say` gets what it says while it starts. Rejects with
 * its last words when it does not come up.
 */
export async function startOwnStack(
  startArgs: readonly string[],
  say: (line: string) => void,
): Promise<OwnStack> {
  const child = spawn(process.execPath, [START_SCRIPT, '--json', ...startArgs], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const exit = once(child, 'exit')
  let lastWords = ''
  createInterface({ input: child.stderr }).on('line', (line) => {
    if (line.startsWith('{')) return
    lastWords = line
    say(line)
  })
  const stack = await new Promise<DemoStack>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      const parsed = stackSchema.safeParse(parseJson(line))
      if (parsed.success) resolve(parsed.data)
    })
    exit.then(() => reject(new Error(`npm start ended: ${lastWords}`)), reject)
  })
  const close = async () => {
    child.kill('SIGTERM')
    await exit
  }
  return { stack, close }
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return null
  }
}
