import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, readdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { ModelFileError } from './model-file-error.ts'

/** A file whose every byte is known before it is fetched. */
export interface PinnedFile {
  readonly name: string
  readonly sizeBytes: number
  /** 64 lower-case hex digits. */
  readonly sha256: string
}

export interface DownloadOptions {
  readonly url: string
  /** Where the whole, checked file appears, by one rename. */
  readonly path: string
  readonly file: PinnedFile
  /** How long the server may take to answer, and then between two pieces. */
  readonly answerTimeoutMs: number
  readonly stallTimeoutMs: number
  readonly onProgress: (doneBytes: number) => void
}

/** A server that cuts every answer short is followed this far. */
const MAX_ATTEMPTS = 20

/**
 * Fetches a file over HTTP and checks its SHA-256. What has arrived stays in `<name>.<pid>.part`;
 * this call and later ones go on from there by `Range`, as long as each attempt brings something.
 * Several processes may fetch one file at once: each writes a part of its own.
 * Rejects with {@link ModelFileError}, also when the bytes are not the pinned ones (the part is dropped).
 */
export async function downloadFile(options: DownloadOptions): Promise<void> {
  const { path, file, url } = options
  const part = `${path}.${process.pid}.part`
  await adoptPart(path, part)
  let doneBytes = await sizeOf(part)
  for (let attempt = 1; doneBytes < file.sizeBytes; attempt++) {
    const failure = await fetchRest(options, part, doneBytes)
    const nowBytes = await sizeOf(part)
    if (failure && (nowBytes <= doneBytes || attempt === MAX_ATTEMPTS)) {
      throw new ModelFileError(`${url}: ${describe(failure)}`, { cause: failure })
    }
    doneBytes = nowBytes
  }
  await verifyFile(part, file)
  await rename(part, path)
}

/** Rejects with {@link ModelFileError} and removes the file when its size or SHA-256 is not the pinned one. */
export async function verifyFile(path: string, file: PinnedFile): Promise<void> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(path), hash)
  const sha256 = hash.digest('hex')
  if (sha256 === file.sha256) return
  await rm(path)
  throw new ModelFileError(`${file.name} has SHA-256 ${sha256}, not the pinned ${file.sha256}.`)
}

/** Takes over the longest part that a process which is gone has left. */
async function adoptPart(path: string, part: string): Promise<void> {
  const prefix = `${basename(path)}.`
  for (const name of await readdir(dirname(path))) {
    if (!name.startsWith(prefix) || !name.endsWith('.part')) continue
    const pid = Number(name.slice(prefix.length, -'.part'.length))
    const left = join(dirname(path), name)
    if (!Number.isSafeInteger(pid) || isAlive(pid)) continue
    if ((await sizeOf(left)) <= (await sizeOf(part))) await rm(left, { force: true })
    else await rename(left, part).catch(ignoreMissing)
  }
}

/** One GET for the bytes from `doneBytes` on, appended to the part; a failure is returned, for the caller to weigh. */
async function fetchRest(
  { url, file, answerTimeoutMs, stallTimeoutMs, onProgress }: DownloadOptions,
  part: string,
  doneBytes: number,
): Promise<unknown> {
  const abort = new AbortController()
  const limit = (ms: number, what: string) =>
    setTimeout(() => abort.abort(new Error(`${what} for ${ms} ms`)), ms)
  let timer = limit(answerTimeoutMs, 'no answer')
  try {
    const headers = new Headers(doneBytes > 0 ? { range: `bytes=${doneBytes}-` } : {})
    const res = await fetch(url, { headers, signal: abort.signal })
    if (!res.ok || !res.body) throw new Error(`HTTP status ${res.status}`)
    let arrivedBytes = rangeStart(res)
    if (arrivedBytes !== 0 && arrivedBytes !== doneBytes) {
      throw new Error('another range than asked for')
    }
    await using out = await open(part, arrivedBytes > 0 ? 'a' : 'w')
    for await (const chunk of res.body) {
      clearTimeout(timer)
      timer = limit(stallTimeoutMs, 'no data')
      arrivedBytes += chunk.byteLength
      if (arrivedBytes > file.sizeBytes) throw new Error(`more than ${file.sizeBytes} bytes`)
      await out.writeFile(chunk)
      onProgress(arrivedBytes)
    }
    return arrivedBytes < file.sizeBytes ? new Error(`ended after ${arrivedBytes} bytes`) : null
  } catch (error) {
    return error
  } finally {
    clearTimeout(timer)
    abort.abort()
  }
}

/** Where in the file the body begins; a server that knows no ranges sends all of it. */
function rangeStart(res: Response): number {
  if (res.status !== 206) return 0
  return Number(/^bytes (\d+)-/.exec(res.headers.get('content-range') ?? '')?.[1])
}

/** `fetch failed` says nothing; its cause does (`getaddrinfo ENOTFOUND …`). */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error ? describe(error.cause) : error.message
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(ignoreMissing))?.size ?? 0
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // EPERM: it runs, as somebody else. `kill` throws nothing but system errors.
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
