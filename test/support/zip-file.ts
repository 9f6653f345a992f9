import { deflateRawSync } from 'node:zlib'

/** Encodes a ZIP archive, entries deflated or stored. Checksums are zero: the reader under test has better ones. */
export function encodeZip(
  entries: Readonly<Record<string, Uint8Array>>,
  { isStored = false } = {},
): Buffer {
  const locals: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const [name, contents] of Object.entries(entries)) {
    const packed = isStored ? Buffer.from(contents) : deflateRawSync(contents)
    const path = Buffer.from(name)
    const fields = Buffer.alloc(26)
    fields.writeUInt16LE(20, 0)
    fields.writeUInt16LE(isStored ? 0 : 8, 4)
    fields.writeUInt32LE(packed.byteLength, 14)
    fields.writeUInt32LE(contents.byteLength, 18)
    fields.writeUInt16LE(path.byteLength, 22)
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), fields, path, packed])
    const tail = Buffer.alloc(14)
    tail.writeUInt32LE(offset, 10)
    const madeBy = Buffer.from([20, 0])
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02', 'latin1'), madeBy, fields, tail, path]))
    locals.push(local)
    offset += local.byteLength
  }
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06', 'latin1')
  end.writeUInt16LE(directory.length, 10)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...locals, ...directory, end])
}
