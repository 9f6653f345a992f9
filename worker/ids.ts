import type { Digest } from '../protocol/digest.ts'
import { toHex } from './hex.ts'

/** Prefixes of every id that leaves the gateway. */
export const ID_PREFIXES = {
  account: 'acct',
  apiKey: 'key',
  member: 'mem',
  request: 'req',
  alert: 'alert',
} as const

const ALPHABET = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ'

/** `length` characters of base 62, uniform, from the platform's random source. */
export function createRandomText(length: number): string {
  let text = ''
  while (text.length < length) {
    for (const byte of crypto.getRandomValues(new Uint8Array(length))) {
      if (byte < 248 && text.length < length) text += ALPHABET[byte % 62]
    }
  }
  return text
}

/** A new request id, `req_` and 24 characters (142 bits). */
export function createRequestId(): string {
  return `${ID_PREFIXES.request}_${createRandomText(24)}`
}

/** A new account id, `acct_` and 16 characters (95 bits). */
export function createAccountId(): string {
  return `${ID_PREFIXES.account}_${createRandomText(16)}`
}

/** A new API key's id, `key_` and 16 characters (95 bits). It says nothing of the key. */
export function createApiKeyId(): string {
  return `${ID_PREFIXES.apiKey}_${createRandomText(16)}`
}

/** A new member's id, `mem_` and 16 characters (95 bits). */
export function createMemberId(): string {
  return `${ID_PREFIXES.member}_${createRandomText(16)}`
}

/** A new alert's id, `alert_` and 24 characters. */
export function createAlertId(): string {
  return `${ID_PREFIXES.alert}_${createRandomText(24)}`
}

/** 32 bytes from the platform's random source. */
export function createSalt(): Digest {
  const bytes = crypto.getRandomValues(new Uint8Array(32))
  return `0x${toHex(bytes.buffer)}`
}
