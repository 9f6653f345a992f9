import { createHash } from 'node:crypto'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface HubBehaviour {
  /** Ends each body early, after so many bytes. */
  readonly cutAfterBytes?: number
  readonly knowsRanges?: boolean
  /** Sends headers and so many bytes of each body, then nothing. */
  readonly stallAfterBytes?: number
  /** What HEAD says the revision is. */
  readonly commit?: string
  /** Sends this as a gzip body in place of each file. */
  readonly gzip?: Uint8Array
  /** Accepts the request and never answers. */
  readonly isMute?: boolean
}

/**
 * The Hugging Face hub's download protocol for one repository: 302 to a storage URL that serves
 * ranges; to HEAD, the commit, hash and size as its client reads them.
 */
export async function startHubServer(
  repo: string,
  revision: string,
  files: Readonly<Record<string, Uint8Array>>,
  behaviour: HubBehaviour = {},
) {
  const { cutAfterBytes, stallAfterBytes, knowsRanges = true } = behaviour
  /** Storage requests in order, as `name` or `name bytes=N-`. */
  const requests: string[] = []
  const server = createServer((req, res) => {
    if (behaviour.isMute) return
    const path = req.url ?? ''
    const prefix = [revision, behaviour.commit ?? revision]
      .map((name) => `/${repo}/resolve/${name}/`)
      .find((candidate) => path.startsWith(candidate))
    if (prefix !== undefined) {
      const asked = path.slice(prefix.length)
      const location = `/storage/${asked}`
      if (req.method === 'GET') res.writeHead(302, { location }).end()
      else answerHead(res, asked, files[asked], behaviour.commit ?? revision)
      return
    }
    const name = path.slice('/storage/'.length)
    const file = path.startsWith('/storage/') ? files[name] : undefined
    if (!file) {
      res.writeHead(404).end()
      return
    }
    if (behaviour.gzip) {
      res.writeHead(200, { 'content-encoding': 'gzip' }).end(behaviour.gzip)
      return
    }
    const { range } = req.headers
    requests.push(range ? `${name} ${range}` : name)
    const start = knowsRanges ? Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0) : 0
    const body = file.subarray(start)
    if (start > 0) {
      res.setHeader('content-range', `bytes ${start}-${file.byteLength - 1}/${file.byteLength}`)
    }
    res.writeHead(start > 0 ? 206 : 200).flushHeaders()
    if (stallAfterBytes === undefined) res.end(body.subarray(0, cutAfterBytes))
    else if (body.byteLength <= stallAfterBytes) res.end(body)
    else if (stallAfterBytes > 0) res.write(body.subarray(0, stallAfterBytes))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo // it listens on TCP
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  return { url: `http://127.0.0.1:${port}`, requests, close }
}

/** Large files are in the storage and named by SHA-256; the others are git blobs. */
function answerHead(
  res: ServerResponse,
  name: string,
  file: Uint8Array | undefined,
  commit: string,
): void {
  if (!file) {
    res.writeHead(404).end()
    return
  }
  const sizeBytes = file.byteLength
  const sha256 = createHash('sha256').update(file).digest('hex')
  const blob = createHash('sha1').update(`blob ${sizeBytes}\0`).update(file).digest('hex')
  if (name.endsWith('.safetensors')) {
    const linked = { 'x-linked-etag': `"${sha256}"`, 'x-linked-size': sizeBytes }
    const location = `/storage/${name}`
    res.writeHead(302, { location, 'x-repo-commit': commit, ...linked }).end()
  } else {
    res
      .writeHead(200, { 'x-repo-commit': commit, etag: `"${blob}"`, 'content-length': sizeBytes })
      .end()
  }
}
