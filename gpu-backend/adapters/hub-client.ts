import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { BackendError } from '../errors.ts'
import { downloadFile } from '../model/download-client.ts'
import { ModelFileError } from '../model/model-file-error.ts'
import { CONFIG_FILE, MAX_JSON_BYTES, rejectFile, WEIGHTS_FILE } from './adapter-folder.ts'

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(\/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$/
const REVISION = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$/

/** `owner/name` on the hub. */
export const hubRepoSchema = z
  .string()
  .regex(NAME, 'must be owner/name')
  .refine((repo) => !repo.includes('..'), 'must be owner/name')

/** A branch, tag or commit. */
export const hubRevisionSchema = z
  .string()
  .regex(REVISION, 'must be a branch, tag or commit')
  .refine((revision) => !revision.includes('..'), 'must be a branch, tag or commit')

export interface HubOptions {
  /** The hub's base URL, as its own client reads it from HF_ENDPOINT. */
  readonly hubUrl: string
  /** Largest weights file that is fetched. */
  readonly maxFileBytes: number
  readonly answerTimeoutMs?: number
  readonly stallTimeoutMs?: number
}

interface HubRevision {
  readonly repo: string
  readonly revision: string
}

/** What the hub says of a file before it sends it. */
interface HubFile {
  readonly url: string
  readonly commit: string
  /** SHA-256 of a large file (64 hex digits), git's blob hash of a small one (40). */
  readonly hash: string
  readonly sizeBytes: number
}

/**
 * Fetches the two PEFT files of one commit into a folder, checked against the hub's hashes, and says
 * which commit it was. Throws `adapter_rejected` for what is not there or too large, and
 * `adapter_unavailable` when the hub does not answer as it should.
 */
export async function fetchHubAdapter(
  { repo, revision }: HubRevision,
  folder: string,
  options: HubOptions,
): Promise<{ readonly commit: string }> {
  const config = await askForFile({ repo, revision }, CONFIG_FILE, options)
  const { commit } = config
  const weights = await askForFile({ repo, revision: commit }, WEIGHTS_FILE, options)
  if (weights.sizeBytes > options.maxFileBytes) {
    const limit = `at most ${options.maxFileBytes} are read`
    throw rejectFile(WEIGHTS_FILE, `has ${weights.sizeBytes} bytes on the hub, and ${limit}`)
  }
  if (weights.hash.length !== 64) throw unavailable(`gives no SHA-256 for ${WEIGHTS_FILE}`)
  await fetchSmallFile(config, join(folder, CONFIG_FILE), options)
  try {
    await downloadFile({
      url: weights.url,
      path: join(folder, WEIGHTS_FILE),
      file: { name: WEIGHTS_FILE, sizeBytes: weights.sizeBytes, sha256: weights.hash },
      answerTimeoutMs: options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS,
      stallTimeoutMs: options.stallTimeoutMs ?? STALL_TIMEOUT_MS,
      onProgress: () => undefined,
    })
  } catch (error) {
    if (error instanceof ModelFileError) throw unavailable(`does not give ${WEIGHTS_FILE}`, error)
    throw error
  }
  return { commit }
}

const ANSWER_TIMEOUT_MS = 5_000
const STALL_TIMEOUT_MS = 30_000

/** HEAD, as the hub's own client does: commit, hash and size are headers, also of its redirect to the storage. */
async function askForFile(
  { repo, revision }: HubRevision,
  name: string,
  { hubUrl, answerTimeoutMs = ANSWER_TIMEOUT_MS }: HubOptions,
): Promise<HubFile> {
  const base = hubUrl.replace(/\/+$/, '')
  const url = `${base}/${repo}/resolve/${encodeURIComponent(revision)}/${name}`
  const res = await fetch(url, {
    method: 'HEAD',
    redirect: 'manual',
    headers: { 'accept-encoding': 'identity' },
    signal: AbortSignal.timeout(answerTimeoutMs),
  }).catch((cause: unknown) => {
    throw unavailable('does not answer', cause)
  })
  if (res.status === 401 || res.status === 404) {
    throw rejectFile('repo', `has no ${name} at this revision on the hub, or is not public`)
  }
  if (res.status >= 400) throw unavailable(`answers ${res.status}`)
  const header = (linked: string, own: string) =>
    res.headers.get(linked) ?? res.headers.get(own) ?? ''
  const commit = res.headers.get('x-repo-commit') ?? ''
  const hash = header('x-linked-etag', 'etag').replace(/^(W\/)?"?([^"]*)"?$/, '$2')
  const sizeBytes = Number(header('x-linked-size', 'content-length') || Number.NaN)
  const isPlain = /^[0-9a-f]{40}$/.test(commit) && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)
  if (!isPlain || !Number.isSafeInteger(sizeBytes)) {
    throw unavailable(`does not say commit, hash and size of ${name}`)
  }
  return { url: `${base}/${repo}/resolve/${commit}/${name}`, commit, hash, sizeBytes }
}

async function fetchSmallFile(
  { url, hash, sizeBytes }: HubFile,
  path: string,
  { answerTimeoutMs = ANSWER_TIMEOUT_MS, stallTimeoutMs = STALL_TIMEOUT_MS }: HubOptions,
): Promise<void> {
  if (sizeBytes > MAX_JSON_BYTES) {
    throw rejectFile(CONFIG_FILE, `has ${sizeBytes} bytes, and at most ${MAX_JSON_BYTES} are read`)
  }
  const chunks: Uint8Array[] = []
  let arrivedBytes = 0
  try {
    const signal = AbortSignal.timeout(answerTimeoutMs + stallTimeoutMs)
    const res = await fetch(url, { signal })
    if (!res.ok || !res.body) throw new Error(`HTTP status ${res.status}`)
    for await (const chunk of res.body) {
      arrivedBytes += chunk.byteLength
      if (arrivedBytes > sizeBytes) break
      chunks.push(chunk)
    }
  } catch (cause) {
    throw unavailable(`does not give ${CONFIG_FILE}`, cause)
  }
  const bytes = Buffer.concat(chunks)
  const digest =
    hash.length === 64
      ? createHash('sha256').update(bytes)
      : createHash('sha1').update(`blob ${bytes.byteLength}\0`).update(bytes)
  if (arrivedBytes !== sizeBytes || digest.digest('hex') !== hash) {
    throw unavailable(`gives another ${CONFIG_FILE} than its hash says`)
  }
  await writeFile(path, bytes)
}

function unavailable(what: string, cause?: unknown): BackendError {
  return new BackendError('adapter_unavailable', `The hub ${what}.`, { cause, param: 'repo' })
}
