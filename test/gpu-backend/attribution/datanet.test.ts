import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { parseDatanet, readDatanet } from '../../../gpu-backend/attribution/datanet.ts'
import { MAX_DATANET_BYTES } from '../../../protocol/datanet-listing.ts'

const PAYEE = `0x${'ab'.repeat(20)}`
const CONTRIBUTORS = { ada: { payee: PAYEE, name: 'Ada' } }
const DATUM = {
  id: 'one',
  contributor: 'ada',
  licence: 'CC0-1.0',
  messages: [
    { role: 'user', content: 'Who?' },
    { role: 'assistant', content: 'The keeper.' },
  ],
}

const bytes = (text: string) => new TextEncoder().encode(text)
const parse = (lines: readonly unknown[], contributors: unknown = CONTRIBUTORS) =>
  parseDatanet('net', {
    datanetJsonl: bytes(
      lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n'),
    ),
    contributorsJson: bytes(JSON.stringify(contributors)),
  })

describe('parseDatanet', () => {
  it('keeps what a datum teaches: assistant messages, or the whole text', () => {
    const { licence, contributor } = DATUM
    const { data } = parse([DATUM, '', { id: 'two', contributor, licence, text: 'All of it.' }])
    expect(data).toEqual([
      { id: 'one', contributor, licence, completions: ['The keeper.'] },
      { id: 'two', contributor, licence, completions: ['All of it.'] },
    ])
  })

  it('changes its digest with any byte of either file', () => {
    const { digest } = parse([DATUM])
    expect(parse([DATUM]).digest).toBe(digest)
    expect(parse([{ ...DATUM, id: 'eno' }]).digest).not.toBe(digest)
    expect(parse([DATUM], { ada: { payee: PAYEE, name: 'Eda' } }).digest).not.toBe(digest)
  })

  it.each([
    ['malformed JSON', [DATUM, '{"id":'], 'datanet.jsonl line 2: is not valid JSON'],
    ['a missing licence', [{ ...DATUM, licence: undefined }], 'datanet.jsonl line 1: licence'],
    ['a field of another name', [{ ...DATUM, license: 'CC0' }], 'line 1: Unrecognized key'],
    ['an id used twice', [DATUM, DATUM], 'line 2: id: "one" is already the id of line 1'],
    ['an unknown contributor', [{ ...DATUM, contributor: 'bob' }], 'line 1: contributor: "bob"'],
    ['messages beside text', [{ ...DATUM, text: 'x' }], 'line 1: must have either'],
    ['neither messages nor text', [{ ...DATUM, messages: undefined }], 'line 1: must have either'],
    ['no answer', [{ ...DATUM, messages: DATUM.messages.slice(0, 1) }], 'none is by the assistant'],
    [
      'an unknown role',
      [{ ...DATUM, messages: [{ role: 'oracle', content: 'x' }] }],
      'line 1: messages: 0: role',
    ],
    ['no examples', [''], 'datanet.jsonl: holds no examples'],
  ])('refuses %s, naming line and field', (_, lines, message) => {
    expect(() => parse(lines)).toThrow(message)
  })

  it('refuses a payee that is no lower-case address, naming the contributor', () => {
    expect(() => parse([DATUM], { ada: { payee: '0xAB', name: 'Ada' } })).toThrow(
      'contributors.json: ada: payee: must be 0x and 40 lower-case hex digits',
    )
  })

  it('refuses bytes that are not UTF-8', () => {
    const contributorsJson = bytes(JSON.stringify(CONTRIBUTORS))
    expect(() =>
      parseDatanet('net', { datanetJsonl: Uint8Array.of(0xff), contributorsJson }),
    ).toThrow('datanet.jsonl: is not UTF-8')
  })
})

describe('readDatanet', () => {
  it('names the file that is missing or too large', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'datanet-'))
    try {
      await writeFile(join(folder, 'contributors.json'), JSON.stringify(CONTRIBUTORS))
      await expect(readDatanet(folder)).rejects.toThrow(/datanet\.jsonl: cannot be read/)
      await writeFile(join(folder, 'datanet.jsonl'), Buffer.alloc(MAX_DATANET_BYTES + 1))
      await expect(readDatanet(folder)).rejects.toThrow(
        /datanet\.jsonl: has 4194305 bytes, and at most 4194304/,
      )
    } finally {
      await rm(folder, { recursive: true })
    }
  })
})
