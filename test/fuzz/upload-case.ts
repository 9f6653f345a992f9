import { expect } from 'vitest'
import { readMultipart } from '../../gpu-backend/api/multipart.ts'
import { BackendError } from '../../gpu-backend/errors.ts'
import { readZipEntry } from '../../gpu-backend/model/zip-entry.ts'
import { encodeZip } from '../support/zip-file.ts'
import { type Chance, damageBytes } from './damage.ts'
import { expectRefusal } from './safetensors-case.ts'

/** A form, whole or damaged, in pieces of any length: its parts, never more bytes than were sent, or refused. */
export async function playMultipart(chance: Chance): Promise<'read' | 'refused'> {
  const { between, pick } = chance
  const boundary = pick(['b', 'a-b', '----x'])
  const contents = Array.from({ length: between(0, 4) }, () =>
    pick([
      '',
      '\r\n',
      `\r\n--${boundary}`.slice(0, -1),
      'x'.repeat(between(0, 300)),
      '--',
      '\r\n--',
    ]),
  )
  const parts = contents.map(
    (content, index) =>
      `--${boundary}\r\ncontent-disposition: form-data; name="p${index}"; filename="f${index}"\r\n\r\n${content}\r\n`,
  )
  const whole = Buffer.from(`${parts.join('')}--${boundary}--\r\n`)
  const isWhole = chance.random() < 0.25
  const body = isWhole ? whole : damageBytes(chance, whole)
  const size = between(1, 64)
  async function* chunks() {
    for (let at = 0; at < body.byteLength; at += size) yield body.subarray(at, at + size)
  }
  const found: string[] = []
  try {
    for await (const part of readMultipart(chunks(), `multipart/form-data; boundary=${boundary}`)) {
      const pieces: Uint8Array[] = []
      for await (const piece of part.body) pieces.push(piece)
      found.push(Buffer.concat(pieces).toString())
    }
    expect(found.join('').length).toBeLessThanOrEqual(body.byteLength)
    if (isWhole) expect(found).toEqual(contents)
    return 'read'
  } catch (error) {
    if (isWhole || !(error instanceof BackendError)) throw error
    expect(error.code).toBe('invalid_request')
    return 'refused'
  }
}

/** A wheel, whole or damaged. */
export function playZip(chance: Chance): 'read' | 'refused' {
  const contents = Buffer.alloc(chance.between(0, 3_000), chance.pick(['a', 'abc', '\0']))
  const entries = { 'other/a.txt': Buffer.from('other'), 'model/x.gguf': contents }
  const whole = encodeZip(entries, { isStored: chance.random() < 0.5 })
  const isWhole = chance.random() < 0.25
  const archive = isWhole ? whole : Buffer.from(damageBytes(chance, whole))
  try {
    const entry = readZipEntry(archive, '.gguf')
    if (isWhole) expect(entry.equals(contents)).toBe(true)
    return 'read'
  } catch (error) {
    if (isWhole) throw error
    expectRefusal(error)
    return 'refused'
  }
}
