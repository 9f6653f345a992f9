import { html } from 'hono/html'
import { isJsonObject, type JsonObject } from '../dispatch/answer-parts.ts'
import { createResolver, describeType, listFields } from './describe-schema.ts'
import { REFERENCE_STYLE } from './reference-style.ts'

type Html = ReturnType<typeof html>
type Resolve = ReturnType<typeof createResolver>

/** The script that makes the page interactive; the same file wherever it is served from. */
export interface ReferenceScript {
  readonly url: string
  /** Subresource integrity of that file. */
  readonly integrity: string
}

export interface ReferencePageOptions {
  /** The OpenAPI document, and where it is. */
  readonly document: JsonObject
  readonly documentUrl: string
  readonly nonce: string
  /** Null: the page stays as it is. */
  readonly script: ReferenceScript | null
}

/** The whole reference as HTML that needs no script and no network; a script replaces it if one loads. */
export function renderReferencePage({
  document,
  documentUrl,
  nonce,
  script,
}: ReferencePageOptions): Html {
  const info = asObject(document.info)
  const resolve = createResolver(document)
  const operations = listOperations(document)
  const tags = listObjects(document.tags)
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${info.title} API reference</title>
<style nonce="${nonce}">${REFERENCE_STYLE}</style>
</head>
<body>
<div id="reference">
<header><h1>${info.title} API reference</h1><p>${info.description}</p>
<p><a href="${documentUrl}">OpenAPI document</a></p></header>
<div class="columns">
<nav aria-label="Operations">${tags.map(
    ({ name }) =>
      html`<h2>${name}</h2><ul>${operations
        .filter(({ tag }) => tag === name)
        .map(
          ({ id, method, path }) =>
            html`<li><a href="#${id}"><span class="method">${method}</span> ${path}</a></li>`,
        )}</ul>`,
  )}</nav>
<main>${tags.map(
    ({ name, description }) =>
      html`<section><h2>${name}</h2><p>${description}</p>${operations
        .filter(({ tag }) => tag === name)
        .map((operation) => renderOperation(operation, resolve))}</section>`,
  )}</main>
</div>
</div>
${script === null ? '' : renderScript({ script, nonce, documentUrl })}
</body>
</html>`
}

/** The static page goes once the script is there; it stays where that could not be loaded. */
function renderScript({
  script,
  nonce,
  documentUrl,
}: Pick<ReferencePageOptions, 'nonce' | 'documentUrl'> & {
  readonly script: ReferenceScript
}): Html {
  return html`<script defer src="${script.url}" integrity="${script.integrity}" crossorigin="anonymous"></script>
<script type="module" nonce="${nonce}">
if (window.Scalar) {
  const page = document.getElementById('reference')
  page.replaceChildren()
  window.Scalar.createApiReference(page, {
    url: '${documentUrl}',
    withDefaultFonts: false,
    telemetry: false,
    agent: { disabled: true },
    mcp: { disabled: true },
    showDeveloperTools: 'never',
  })
}
</script>`
}

interface ListedOperation {
  readonly id: string
  readonly tag: string
  readonly method: string
  readonly path: string
  readonly operation: JsonObject
}

function listOperations({ paths }: JsonObject): readonly ListedOperation[] {
  return Object.entries(asObject(paths)).flatMap(([path, item]) =>
    Object.entries(asObject(item)).map(([method, value]) => {
      const operation = asObject(value)
      const [tag] = Array.isArray(operation.tags) ? operation.tags : []
      return {
        id: String(operation.operationId),
        tag: String(tag),
        method: method.toUpperCase(),
        path,
        operation,
      }
    }),
  )
}

function renderOperation({ id, method, path, operation }: ListedOperation, resolve: Resolve): Html {
  const [security] = listObjects(operation.security)
  const bodies = Object.entries(asObject(asObject(operation.requestBody).content))
  return html`<article id="${id}">
<h3><span class="method">${method}</span> <code>${path}</code></h3>
<p><strong>${operation.summary}.</strong> ${renderText(operation.description)}</p>
<p class="note">${security === undefined ? 'No key needed.' : `Authorization: Bearer, ${security.adminKey ? 'the operator’s key' : 'an API key'}.`}</p>
${renderParameters(listObjects(operation.parameters), resolve)}
${bodies.map(
  ([type, body]) =>
    html`<h4>Request body: ${type}</h4>${renderFields(asObject(asObject(body).schema), resolve)}`,
)}
<h4>Answers</h4>
${Object.entries(asObject(operation.responses)).map(([status, answer]) =>
  renderAnswer(status, asObject(answer), resolve),
)}
</article>`
}

function renderParameters(parameters: readonly JsonObject[], resolve: Resolve): Html | '' {
  if (parameters.length === 0) return ''
  return html`<h4>Parameters</h4><table><tbody>${parameters.map(
    (parameter) => html`<tr>
<th scope="row"><code>${parameter.name}</code>${parameter.required ? html` <em>required</em>` : ''}</th>
<td>in ${parameter.in}; ${describeType(asObject(parameter.schema), resolve)}</td>
<td>${renderText(parameter.description ?? asObject(parameter.schema).description)}</td></tr>`,
  )}</tbody></table>`
}

function renderAnswer(status: string, answer: JsonObject, resolve: Resolve): Html {
  const sentences = String(answer.description).split('\n\n')
  if (Number(status) >= 400) {
    return html`<details><summary><code>${status}</code> ${sentences.map((sentence) => sentence.split('`')[1]).join(', ')}</summary>
<ul>${sentences.map((sentence) => html`<li>${renderText(sentence)}</li>`)}</ul></details>`
  }
  return html`<details><summary><code>${status}</code> ${renderText(answer.description)}</summary>
${Object.entries(asObject(answer.content)).map(([type, held]) => {
  const schema = asObject(asObject(held).schema)
  return html`<p><code>${type}</code> ${renderText(schema.description)}</p>${renderFields(schema, resolve)}`
})}</details>`
}

function renderFields(schema: JsonObject, resolve: Resolve): Html | '' {
  const fields = listFields(schema, resolve)
  if (fields.length === 0) return ''
  return html`<table><tbody>${fields.map(
    ({ path, type, isRequired, description }) => html`<tr>
<th scope="row"><code>${path}</code>${isRequired ? html` <em>required</em>` : ''}</th>
<td>${type}</td><td>${renderText(description)}</td></tr>`,
  )}</tbody></table>`
}

/** A sentence with its quoted names as code. */
function renderText(text: unknown): readonly (Html | string)[] {
  const parts = typeof text === 'string' ? text.split('`') : []
  return parts.map((part, index) => (index % 2 === 1 ? html`<code>${part}</code>` : part))
}

function asObject(value: unknown): JsonObject {
  return isJsonObject(value) ? value : {}
}

function listObjects(value: unknown): readonly JsonObject[] {
  return Array.isArray(value) ? value.filter(isJsonObject) : []
}
