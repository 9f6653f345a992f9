import { expect, test, vi } from 'vitest'
import { readOpenApiDocument } from '../../worker/api/openapi.ts'
import { createApp } from '../../worker/app.ts'

test('a fault of ours is told in general terms; the log has the detail', async () => {
  const log = vi.spyOn(console, 'log').mockImplementation(() => {})
  const response = await createApp().request('/health', {}, { BACKENDS: 'no json' })
  expect(response.status).toBe(500)
  expect(await response.json()).toEqual({
    error: {
      message: 'Something went wrong on our side. The request id names it.',
      type: 'server_error',
      param: null,
      code: 'internal_error',
    },
  })
  const lines = log.mock.calls.map(([line]) => JSON.parse(String(line)))
  expect(lines).toContainEqual(
    expect.objectContaining({
      requestId: response.headers.get('x-request-id'),
      errorMessage: expect.stringContaining('BACKENDS: must be JSON'),
    }),
  )
})

test('the OpenAPI document tells of the routes that there are, and of no others', () => {
  const routes = createApp()
    .routes.filter(({ method }) => method !== 'ALL')
    .map(({ method, path }) => `${method} ${path.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}')}`)
  const { paths } = readOpenApiDocument() as { paths: Record<string, object> } // as OpenAPI has it
  const documented = Object.entries(paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
  )
  expect(documented.toSorted()).toEqual([...new Set(routes)].toSorted())
})
