import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { readFolderTokenizer } from '../../../gpu-backend/model/folder-tokenizer.ts'
import {
  PIECE_VECTORS,
  PIECES_CHAT_TEMPLATE,
  PIECES_MODEL,
  sourceOfPieces,
  TINY_PIECES,
} from '../../support/tiny-pieces.ts'

const root = mkdtempSync(join(tmpdir(), 'folder-tokenizer-'))
afterAll(() => rmSync(root, { recursive: true }))

function createFolder(files: Readonly<Record<string, string | Uint8Array>>): string {
  const dir = mkdtempSync(join(root, 'model-'))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), content)
  return dir
}

const CONFIG = { bos_token: '<s>', eos_token: '</s>', chat_template: PIECES_CHAT_TEMPLATE }
const configured = (more = {}) => ({
  'tokenizer_config.json': JSON.stringify({ ...CONFIG, ...more }),
})

test('a folder with no tokenizer.json but a tokenizer.model has its vocabulary', async () => {
  const dir = createFolder({ ...configured(), 'tokenizer.model': PIECES_MODEL })
  expect(await readFolderTokenizer(dir, null)).toEqual({
    tokenizer: sourceOfPieces(TINY_PIECES),
    tokenCount: TINY_PIECES.tokens.length,
  })
})

test('what its config says of the first and the last token holds', async () => {
  const dir = createFolder({
    ...configured({ add_bos_token: false }),
    'tokenizer.model': PIECES_MODEL,
    'generation_config.json': JSON.stringify({ eos_token_id: [2, 3] }),
  })
  const { tokenizer } = await readFolderTokenizer(dir, null)
  expect(tokenizer).toMatchObject({ addBos: false, eosTokenIds: [2, 3] })
})

test('tokenizer.json goes before tokenizer.model', async () => {
  const dir = createFolder({
    ...configured(),
    'tokenizer.json': JSON.stringify(PIECE_VECTORS.tokenizerJson),
    'tokenizer.model': 'damaged',
  })
  const { tokenizer } = await readFolderTokenizer(dir, null)
  expect(tokenizer.vocabulary).toMatchObject({ kind: 'pieces', order: { by: 'list' } })
})

test('a folder with neither, or a damaged one, is refused by name', async () => {
  const refusal = (files: Parameters<typeof createFolder>[0]) =>
    readFolderTokenizer(createFolder(files), null).catch(({ message }: Error) => message)
  expect(await refusal(configured())).toBe('tokenizer.json is missing or cannot be read.')
  const damaged = { ...configured(), 'tokenizer.model': PIECES_MODEL.subarray(0, -3) }
  expect(await refusal(damaged)).toMatch(/^tokenizer\.model/)
})
