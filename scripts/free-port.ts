import { createServer } from 'node:net'

/**
 * Makes sure that a TCP port on 127.0.0.1 can be taken, by taking it for a moment; 0 finds a free
 * one. Throws an error that names the port when it is in use.
 */
export async function claimPort(wanted: number): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new Error(`Port ${wanted} is in use. Choose another with --port.`, { cause: error })
          : error,
      ),
    )
    server.listen(wanted, '127.0.0.1', resolve)
  })
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('No TCP address.')
  return address.port
}
