import { createAdapterReader } from './adapter-pool.ts'
import { openOwnEngine } from './own-engine.ts'
import { decodeOwn } from './step.ts'

/** A process with one model of its own, which does what its parent says: see `one-more.ts`. */

export type DedicatedCommand =
  | { readonly kind: 'open'; readonly modelPath: string; readonly threadCount: number }
  | { readonly kind: 'load'; readonly folders: readonly string[] }
  | {
      readonly kind: 'decode'
      readonly prompts: readonly (readonly number[])[]
      readonly stepCount: number
    }

export interface DedicatedAnswer {
  readonly tokensPerSecond: number
  /** Resident memory of the process. */
  readonly rssBytes: number
}

let engine: Awaited<ReturnType<typeof openOwnEngine>> | null = null

async function obey(command: DedicatedCommand): Promise<DedicatedAnswer> {
  let tokensPerSecond = 0
  if (command.kind === 'open') engine = await openOwnEngine(command.modelPath, command.threadCount)
  if (engine === null) throw new Error('no model was opened')
  if (command.kind === 'load') {
    for (const folder of command.folders) {
      await engine.loadAdapter(await createAdapterReader(engine.model.config)(folder))
    }
  }
  if (command.kind === 'decode') {
    const asks = command.prompts.map((promptTokens) => ({ promptTokens }))
    tokensPerSecond = (await decodeOwn({ engine }, asks, command.stepCount)).tokensPerSecond
  }
  return { tokensPerSecond, rssBytes: process.memoryUsage.rss() }
}

process.on('disconnect', () => void engine?.close())

process.on('message', (command: DedicatedCommand) => {
  obey(command).then(
    (answer) => process.send?.(answer),
    (error: unknown) => {
      console.error(error)
      process.exit(1)
    },
  )
})
