import { toHex } from '../hex.ts'
import { createRandomText, ID_PREFIXES } from '../ids.ts'

const SECRET_LENGTH = 32
const MAC_LENGTH = 16
const KEY_PATTERN = /^tg_([0-9a-zA-Z]{1,32})_[0-9a-zA-Z]{32}[0-9a-f]{16}$/
/** Nothing longer can match the pattern. */
const MAX_KEY_LENGTH = 3 + 32 + 1 + SECRET_LENGTH + MAC_LENGTH
const SHOWN_SECRET_LENGTH = 4

export interface CreatedApiKey {
  /** `tg_<account>_<secret><mac>`. Shown once and stored nowhere. */
  readonly key: string
  /** SHA-256 of the key, lower-case hex: what the account object knows it by. */
  readonly keyHash: string
  /** The first characters of the key, to recognise it by. */
  readonly start: string
}

/** A new key of an account (`acct_…`) with 190 random bits. */
export async function createApiKey(
  accountId: string,
  checksumSecret: string,
): Promise<CreatedApiKey> {
  const account = accountId.slice(ID_PREFIXES.account.length + 1)
  const unsigned = `tg_${account}_${createRandomText(SECRET_LENGTH)}`
  const key = unsigned + (await signKey(unsigned, checksumSecret))
  if (!KEY_PATTERN.test(key)) throw new TypeError(`${accountId} is no account id`)
  return {
    key,
    keyHash: await hashKey(key),
    start: unsigned.slice(0, SHOWN_SECRET_LENGTH - SECRET_LENGTH),
  }
}

export type ParsedApiKey =
  | { readonly outcome: 'key'; readonly accountId: string; readonly keyHash: string }
  /** Not made with our checksum secret: no account needs to be asked. */
  | { readonly outcome: 'garbage' }

/** Of so many keys the outcome is kept in memory. */
const KEPT_KEY_COUNT = 1_000

/** Keys that were made with the secret, as they were parsed. */
let known: { readonly secret: string; readonly keys: Map<string, ParsedApiKey> } | null = null

/** Which account a key claims to be of. Never throws, whatever the text. */
export async function parseApiKey(text: string, checksumSecret: string): Promise<ParsedApiKey> {
  if (known?.secret !== checksumSecret) known = { secret: checksumSecret, keys: new Map() }
  const { keys } = known
  const kept = keys.get(text)
  if (kept !== undefined) return kept
  const parsed = await checkApiKey(text, checksumSecret)
  if (parsed.outcome === 'garbage') return parsed
  if (keys.size >= KEPT_KEY_COUNT) keys.clear()
  keys.set(text, parsed)
  return parsed
}

async function checkApiKey(text: string, checksumSecret: string): Promise<ParsedApiKey> {
  const account = text.length <= MAX_KEY_LENGTH ? KEY_PATTERN.exec(text)?.[1] : undefined
  if (account === undefined) return { outcome: 'garbage' }
  const mac = await signKey(text.slice(0, -MAC_LENGTH), checksumSecret)
  if (!equalMacs(mac, text.slice(-MAC_LENGTH))) return { outcome: 'garbage' }
  return {
    outcome: 'key',
    accountId: `${ID_PREFIXES.account}_${account}`,
    keyHash: await hashKey(text),
  }
}

/** Of two texts of one length, in a time that says nothing of where they differ. */
function equalMacs(a: string, b: string): boolean {
  let difference = 0
  for (let index = 0; index < MAC_LENGTH; index++)
    difference |= a.charCodeAt(index) ^ b.charCodeAt(index)
  return difference === 0
}

/** The first 64 bits of HMAC-SHA256 over what stands before it, lower-case hex. */
async function signKey(unsigned: string, checksumSecret: string): Promise<string> {
  const hmacKey = await importSecret(checksumSecret)
  const mac = await crypto.subtle.sign('HMAC', hmacKey, new TextEncoder().encode(unsigned))
  return toHex(mac).slice(0, MAC_LENGTH)
}

/** An installation has one secret; a request must not wait for another's import, so only its result is kept. */
let imported: { readonly secret: string; readonly key: CryptoKey } | null = null

async function importSecret(secret: string): Promise<CryptoKey> {
  if (imported?.secret === secret) return imported.key
  const algorithm = { name: 'HMAC', hash: 'SHA-256' }
  const bytes = new TextEncoder().encode(secret)
  const key = await crypto.subtle.importKey('raw', bytes, algorithm, false, ['sign'])
  imported = { secret, key }
  return key
}

async function hashKey(key: string): Promise<string> {
  return toHex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key)))
}
