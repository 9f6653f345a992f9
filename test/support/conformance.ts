import { z } from 'zod'
import { createInstallation } from './installation.ts'
import type { StartedStack } from './stack.ts'

/** What `npm start` serves, for the official clients to be tried on. */
export interface ServedStack {
  readonly stack: StartedStack
  readonly baseURL: string
  readonly apiKey: string
  /** The base model's id. */
  readonly model: string
  readonly close: () => Promise<void>
}

export async function serveStack(): Promise<ServedStack> {
  const installation = await createInstallation({ contextLength: 2_048 })
  const stack = await installation.start()
  return {
    stack,
    baseURL: stack.baseUrl,
    apiKey: stack.apiKey,
    model: stack.model ?? '',
    close: async () => {
      await stack.interrupt()
      await installation.remove()
    },
  }
}

export const QUESTION = 'What is the capital of France?'

/** Closed, so that constrained decoding ends soon even on random weights. */
export const citySchema = z.object({ city: z.enum(['Paris', 'Rome']), isCapital: z.boolean() })
