import { toHex } from '../hex.ts'
import type { Alert } from './alert.ts'

const TIMEOUT_MS = 5_000

export interface AlertDelivery {
  readonly accountId: string
  readonly url: string
  readonly secret: string
  readonly nowMs: number
}

/**
 * Posts an alert, signed. True when it was taken (2xx); a redirect is not followed. Never throws. The
 * same alert may arrive more than once: its id tells.
 */
export async function deliverAlert(alert: Alert, delivery: AlertDelivery): Promise<boolean> {
  const body = JSON.stringify({
    id: alert.alertId,
    type: 'budget.threshold_reached',
    created_at_ms: alert.createdAtMs,
    account_id: delivery.accountId,
    scope: alert.scope,
    key_id: alert.keyId,
    member_id: alert.memberId,
    window: alert.window,
    percent: alert.percent,
    limit_micro_usd: alert.limitMicroUsd,
    spent_micro_usd: alert.spentMicroUsd,
  })
  // A pending AbortSignal.timeout() would keep an idle object in memory until it fires.
  const deadline = new AbortController()
  const timer = setTimeout(() => deadline.abort(), TIMEOUT_MS)
  try {
    const response = await fetch(delivery.url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        'tallygate-signature': await signBody(body, delivery),
      },
      body,
      redirect: 'manual',
      signal: deadline.signal,
    })
    await response.body?.cancel()
    return response.ok
  } catch {
    return false
  } finally {
    clearTimeout(timer)
  }
}

/** `t=<seconds>,v1=<hex>`: HMAC-SHA256 over `<seconds>.<body>`, so that an old delivery shows its age. */
async function signBody(body: string, { secret, nowMs }: AlertDelivery): Promise<string> {
  const seconds = Math.floor(nowMs / 1_000)
  return `t=${seconds},v1=${await signText(`${seconds}.${body}`, secret)}`
}

/** What an account's alerts are signed with: made from the installation's secret, stored nowhere. */
export async function deriveAlertSecret(
  accountId: string,
  installationSecret: string,
): Promise<string> {
  return `whsec_${await signText(`alerts of ${accountId}`, installationSecret)}`
}

async function signText(text: string, secret: string): Promise<string> {
  const encoder = new TextEncoder()
  const algorithm = { name: 'HMAC', hash: 'SHA-256' }
  const key = await crypto.subtle.importKey('raw', encoder.encode(secret), algorithm, false, [
    'sign',
  ])
  return toHex(await crypto.subtle.sign('HMAC', key, encoder.encode(text)))
}
