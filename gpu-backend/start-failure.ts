import { stat } from 'node:fs/promises'
import { ConfigError } from './config.ts'
import { ModelFileError } from './model/model-file-error.ts'

/** Throws ConfigError where a variable names a folder that is not there. */
export async function requireFolder(variable: string, path: string | undefined): Promise<void> {
  if (path === undefined) return
  const found = await stat(path).catch(() => null)
  if (!found?.isDirectory()) {
    throw new ConfigError(`The variable ${variable} names no folder: ${path}`)
  }
}

/** One sentence for the operator: what is wrong, and by which name it is known. */
export function explainStartFailure(error: unknown): string {
  if (error instanceof ConfigError || error instanceof ModelFileError) return error.message
  if (!(error instanceof Error)) return `The backend could not start: ${String(error)}`
  // The code and address fields of Node's system errors.
  const { code, address, port } = error as NodeJS.ErrnoException & {
    readonly address?: string
    readonly port?: number
  }
  if (code === 'EADDRINUSE') return `Port ${port} of ${address} is in use. Choose another by PORT.`
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
    return `The variable HOST names no address of this machine: ${error.message}`
  }
  return `The backend could not start: ${error.message}`
}
