import { expect } from 'vitest'
import { z } from 'zod'

// biome-ignore lint/suspicious/noExplicitAny: the document is looked at from outside, as its readers do
type Document = any

const METHODS = ['get', 'post', 'patch', 'delete'] as const

export interface DocumentedOperation {
  readonly operationId: string
  readonly path: string
  readonly method: string
  readonly operation: Document
}

/** The OpenAPI document of a gateway, as what it answers is held against it. */
export interface ApiDocument {
  readonly openapi: Document
  readonly operations: readonly DocumentedOperation[]
  /** Checks an answer against what the document says of its status; its JSON. */
  readonly expectDocumented: (operationId: string, response: Response) => Promise<Document>
}

export async function readApiDocument(gatewayUrl: string): Promise<ApiDocument> {
  const openapi: Document = await (await fetch(`${gatewayUrl}/openapi.json`)).json()
  const operations = Object.entries<Document>(openapi.paths).flatMap(([path, item]) =>
    METHODS.flatMap((method) => {
      const operation = item[method]
      return operation
        ? [{ operationId: operation.operationId, path, method: method.toUpperCase(), operation }]
        : []
    }),
  )
  const checkers = new Map<string, z.ZodType>()
  const compile = (schema: object) => {
    const $defs = openapi.components.schemas
    const text = JSON.stringify({ ...schema, $defs }).replaceAll(
      '#/components/schemas/',
      '#/$defs/',
    )
    return z.fromJSONSchema(JSON.parse(text))
  }
  return {
    openapi,
    operations,
    expectDocumented: async (operationId, response) => {
      const { operation } = operations.find((each) => each.operationId === operationId)!
      const documented = operation.responses[response.status]
      expect(documented, `${operationId} answers ${response.status}`).toBeDefined()
      const [type = ''] = (response.headers.get('content-type') ?? '').split(';')
      expect(Object.keys(documented.content)).toContain(type)
      for (const name of Object.keys(documented.headers)) {
        if (!name.startsWith('retry-after')) expect(response.headers.get(name), name).not.toBeNull()
      }
      if (type !== 'application/json') return response.arrayBuffer()
      const body = await response.json()
      const key = `${operationId} ${response.status}`
      const checker = checkers.get(key) ?? compile(documented.content[type].schema)
      checkers.set(key, checker)
      expect(checker.safeParse(body).error?.issues, key).toBeUndefined()
      return body
    },
  }
}

/** Calls of a gateway with a key; each answer is held against the document. */
export function createDocumentedCall(api: ApiDocument, gatewayUrl: string, apiKey: string) {
  return async (method: string, path: string, body?: object) => {
    const response = await fetch(gatewayUrl + path, {
      method,
      headers: {
        authorization: `Bearer ${apiKey}`,
        ...(!(body instanceof FormData) && { 'content-type': 'application/json' }),
      },
      ...(body && { body: body instanceof FormData ? body : JSON.stringify(body) }),
    })
    const operationId = findOperation(api, method, path)
    return { status: response.status, body: await api.expectDocumented(operationId, response) }
  }
}

/** The operation that a call means. */
function findOperation({ operations }: ApiDocument, method: string, url: string): string {
  const [path = ''] = url.split('?')
  const found = operations.find((each) => {
    const pattern = each.path.replace(/\{\w+\}/g, '[^/]+')
    return each.method === method && new RegExp(`^${pattern}$`).test(path)
  })
  return found!.operationId
}
