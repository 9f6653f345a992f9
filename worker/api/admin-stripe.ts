import { z } from 'zod'
import { readStripeAccount, setStripeCustomer } from '../ledger/meter-event-store.ts'
import { uncertainBefore } from '../ledger/report-usage.ts'
import { reportToStripe } from '../stripe.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'

const customerIdSchema = z
  .string()
  .regex(/^cus_[0-9A-Za-z]{1,100}$/, 'must be cus_ and letters or digits')
  .nullable()

export const stripeCustomerBodySchema = z.strictObject({
  customer_id: customerIdSchema.describe('Null: nothing is told until there is one again.'),
})

export const stripeAccountSchema = z
  .strictObject({
    object: z.literal('stripe_account'),
    customer_id: customerIdSchema,
    accepted_micro_usd: z.int().describe('What Stripe has confirmed.'),
    pending_micro_usd: z.int().describe('What is on its way there.'),
    uncertain_micro_usd: z
      .int()
      .describe('Of it, what Stripe may have and is not sent again: look there.'),
    last_error: z.string().nullable(),
  })
  .meta({ id: 'StripeAccount' })

export const stripeRunSchema = z
  .discriminatedUnion('outcome', [
    z.strictObject({
      outcome: z.literal('ran'),
      accepted_count: z.int().describe('Meter events that Stripe confirmed.'),
      failures: z.array(z.string()),
    }),
    z.strictObject({ outcome: z.literal('not_configured'), missing: z.array(z.string()) }),
  ])
  .meta({ id: 'StripeRun' })

/** `POST /admin/v1/accounts/{id}/stripe`: who pays the account's usage at Stripe. */
export async function setStripeAccount(c: AppContext): Promise<Response> {
  const json = await readJsonBody(c.req.raw, c.var.services.config)
  const body = parseRequest(stripeCustomerBodySchema, json.value)
  const { accountId } = await requireAccount(c)
  await setStripeCustomer(c.var.services.database, accountId, body.customer_id)
  return c.json(await describeStripeAccount(c, accountId))
}

/** `GET /admin/v1/accounts/{id}/stripe` */
export async function getStripeAccount(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  return c.json(await describeStripeAccount(c, accountId))
}

/** `POST /admin/v1/stripe`: what the schedule does, now. */
export async function runStripe(c: AppContext): Promise<Response> {
  const run = await reportToStripe(c.var.services)
  const body: z.input<typeof stripeRunSchema> =
    run.outcome === 'ran'
      ? { outcome: run.outcome, accepted_count: run.acceptedCount, failures: [...run.failures] }
      : { outcome: run.outcome, missing: [...run.missing] }
  return c.json(body)
}

async function describeStripeAccount(
  c: AppContext,
  accountId: string,
): Promise<z.input<typeof stripeAccountSchema>> {
  const { database } = c.var.services
  const account = await readStripeAccount(database, accountId, uncertainBefore(Date.now()))
  return {
    object: 'stripe_account',
    customer_id: account.customerId,
    accepted_micro_usd: account.acceptedMicroUsd,
    pending_micro_usd: account.pendingMicroUsd,
    uncertain_micro_usd: account.uncertainMicroUsd,
    last_error: account.lastError,
  }
}
