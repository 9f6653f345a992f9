import { AccountObject } from './access/account-object.ts'
import { ResponseObject } from './access/response-object.ts'
import { createApp } from './app.ts'
import type { Env } from './bindings.ts'
import { describeError } from './log.ts'
import { AnchorObject } from './proofs/anchor-object.ts'
import { createServices } from './services.ts'

const app = createApp()

/** The Worker: HTTP, and the schedule on which usage is anchored. */
export default {
  fetch: (request, env, ctx) => app.fetch(request, env, ctx),
  scheduled: async (_event, env) => {
    const services = createServices(env)
    try {
      await services.anchor().runCycle()
    } catch (error) {
      services.log('scheduled_failed', describeError(error))
      throw error
    }
  },
} satisfies ExportedHandler<Env>

export { AccountObject, AnchorObject, ResponseObject }
