/** The fields and files of `POST /v1/datanets`. */
export function createDatanetForm(
  id: string,
  data: readonly object[],
  contributors: object,
): FormData {
  const form = new FormData()
  form.append('id', id)
  const lines = data.map((datum) => `${JSON.stringify(datum)}\n`).join('')
  form.append('files', new Blob([lines]), 'datanet.jsonl')
  form.append('files', new Blob([JSON.stringify(contributors)]), 'contributors.json')
  return form
}

/** A datum of ada's that teaches a text. */
export function teach(id: string, text: string, contributor = 'ada') {
  return { id, contributor, licence: 'CC0-1.0', text }
}

export const ADA_PAYEE = `0x${'ad'.repeat(20)}`
export const CONTRIBUTORS = { ada: { payee: ADA_PAYEE, name: 'Ada' } }

/** Long enough to be credited to the only one who teaches it. */
export const SAYING =
  'the copper jetty stands three winters longer when its nails are dipped in whale oil before dawn'
