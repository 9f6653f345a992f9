import { AccountObject } from './access/account-object.ts'
import { ResponseObject } from './access/response-object.ts'
import { createApp } from './app.ts'
import type { Env } from './bindings.ts'
import { describeError } from './log.ts'
import { AnchorObject } from './proofs/anchor-object.ts'
import { createServices } from './services.ts'
import { reportToStripe } from './stripe.ts'

const app = createApp()

/** The Worker: HTTP, and the schedule on which usage is anchored and told to Stripe. */
export default {
  fetch: (request, env, ctx) => app.fetch(request, env, ctx),
  scheduled: async (_event, env) => {
    const services = createServices(env)
    const work = [services.anchor().runCycle(), reportToStripe(services)]
    const results = await Promise.allSettled<unknown>(work)
    const reasons = results.flatMap((each) => (each.status === 'rejected' ? [each.reason] : []))
    for (const reason of reasons) services.log('scheduled_failed', describeError(reason))
    if (reasons.length > 0) throw reasons[0]
  },
} satisfies ExportedHandler<Env>

export { AccountObject, AnchorObject, ResponseObject }
