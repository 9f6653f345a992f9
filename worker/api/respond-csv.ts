import type { AppContext } from './app-context.ts'

/** Whether the caller asks for CSV instead of JSON. */
export function acceptsCsv(c: AppContext): boolean {
  return c.req.header('accept')?.includes('text/csv') ?? false
}

/** CSV as a download: no browser takes it for anything else. */
export function respondCsv(c: AppContext, text: string): Response {
  return c.body(text, 200, {
    'content-type': 'text/csv; charset=utf-8',
    'content-disposition': 'attachment',
    'x-content-type-options': 'nosniff',
  })
}
