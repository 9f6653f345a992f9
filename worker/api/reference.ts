import { createRandomText } from '../ids.ts'
import { type ReferenceScript, renderReferencePage } from '../web/reference-page.ts'
import type { AppContext } from './app-context.ts'
import type { Json } from './openapi-document.ts'

/** Of `@scalar/api-reference` 1.72.1, `dist/browser/standalone.js`, as npm has it. */
const SCRIPT_INTEGRITY = 'sha384-U11tb2XnKvmwt8RlTvnwUnYgrN+ur4Xyh9htLhjajWNR/Oyl5AX5DEz00qRmlrmK'

/** `GET /reference`: the document to read, for a person. */
export async function getReference(c: AppContext, document: Json): Promise<Response> {
  const { REFERENCE_SCRIPT_URL: url } = c.var.services.config
  const script = url === null ? null : { url, integrity: SCRIPT_INTEGRITY }
  const nonce = createRandomText(22)
  const page = await renderReferencePage({ document, documentUrl: '/openapi.json', nonce, script })
  return c.html(page, 200, {
    'content-security-policy': composePolicy(nonce, script),
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
  })
}

/** Scalar writes style elements of its own; without it only the page's stands. */
function composePolicy(nonce: string, script: ReferenceScript | null): string {
  const rules = [
    "default-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "img-src 'self' data:",
    ...(script === null
      ? [`style-src 'nonce-${nonce}'`]
      : [
          `script-src 'nonce-${nonce}' ${script.url}`,
          "style-src 'unsafe-inline'",
          "connect-src 'self'",
          "font-src 'self' data:",
        ]),
  ]
  return rules.join('; ')
}
