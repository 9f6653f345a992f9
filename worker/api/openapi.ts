import { z } from 'zod'
import type { AppContext } from './app-context.ts'
import { composeOpenApiDocument, type Json } from './openapi-document.ts'
import { jsonAnswer, type Operation } from './operation.ts'
import { OPERATIONS } from './operations.ts'
import { getReference } from './reference.ts'

const CACHE_CONTROL = 'public, max-age=300'

let composed: Json | undefined

/** The gateway's OpenAPI document, composed once an isolate. */
export function readOpenApiDocument(): Json {
  composed ??= composeOpenApiDocument(ALL_OPERATIONS)
  return composed
}

/** `GET /openapi.json`. */
function getOpenApiDocument(c: AppContext): Response {
  return c.json(readOpenApiDocument(), 200, { 'cache-control': CACHE_CONTROL })
}

/** Every operation, those that describe them among them. */
export const ALL_OPERATIONS: readonly Operation[] = [
  ...OPERATIONS,
  {
    method: 'GET',
    path: '/openapi.json',
    handler: async (c) => getOpenApiDocument(c),
    key: null,
    id: 'getOpenApiDocument',
    tag: 'Operation',
    summary: 'Read this document',
    answer: jsonAnswer(z.looseObject({ openapi: z.string() }), 'OpenAPI 3.1.'),
  },
  {
    method: 'GET',
    path: '/reference',
    handler: (c) => getReference(c, readOpenApiDocument()),
    key: null,
    id: 'getReference',
    tag: 'Operation',
    summary: 'Read the reference',
    answer: {
      status: 200,
      description: 'This document for people, whole without script or network.',
      content: { 'text/html': 'The page.' },
    },
  },
]
