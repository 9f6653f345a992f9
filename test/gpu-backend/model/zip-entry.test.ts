import { describe, expect, it } from 'vitest'
import { ModelFileError } from '../../../gpu-backend/model/model-file-error.ts'
import { readZipEntry } from '../../../gpu-backend/model/zip-entry.ts'
import { encodeZip } from '../../support/zip-file.ts'

const entries = { 'a/one.txt': Buffer.from('one'), 'b/two.gguf': Buffer.alloc(5_000, 'two') }

function withDirectoryAt(offset: number): Buffer {
  const archive = encodeZip(entries)
  archive.writeUInt32LE(offset, archive.byteLength - 6)
  return archive
}

describe('readZipEntry', () => {
  it.each([true, false])('finds an entry by the end of its path (stored: %s)', (isStored) => {
    const archive = encodeZip(entries, { isStored })
    expect(readZipEntry(archive, 'two.gguf').equals(entries['b/two.gguf'])).toBe(true)
  })

  it.each([
    ['an archive without it', encodeZip({}), 'holds no two.gguf'],
    ['what is no archive', Buffer.from('<html>Not found</html>'), 'damaged'],
    ['an archive cut short', encodeZip(entries).subarray(0, 80), 'damaged'],
    ['a directory that points nowhere', withDirectoryAt(2 ** 32 - 1), 'damaged'],
  ])('refuses %s', (_, archive, sentence) => {
    expect(() => readZipEntry(archive, 'two.gguf')).toThrow(ModelFileError)
    expect(() => readZipEntry(archive, 'two.gguf')).toThrow(sentence)
  })
})
