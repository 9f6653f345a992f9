/** Encodes tensors as a safetensors file, one after the other in the order given. */
export function encodeSafetensors(
  tensors: readonly { name: string; dtype: string; shape: readonly number[]; data: Uint8Array }[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {}
  let offset = 0
  for (const { name, dtype, shape, data } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + data.byteLength] }
    offset += data.byteLength
  }
  // To a multiple of 8, as the library writes it.
  const json = JSON.stringify(header)
  const padding = ' '.repeat(-Buffer.byteLength(json) & 7)
  return joinSafetensors(json + padding, ...tensors.map((tensor) => tensor.data))
}

/** A file from a header as it is written, valid or not. */
export function joinSafetensors(header: string, ...data: Uint8Array[]): Uint8Array {
  const json = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.byteLength))
  return new Uint8Array(Buffer.concat([length, json, ...data]))
}
