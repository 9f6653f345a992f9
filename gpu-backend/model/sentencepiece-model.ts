import { ModelFileError } from './model-file-error.ts'
import { checkPieces, type PieceVocabulary, pieceTypeOf } from './piece-vocabulary.ts'

/** Fields of the protobuf messages in sentencepiece's `sentencepiece_model.proto`. */
const MODEL = { piece: 1, trainer: 2, normalizer: 3 } as const
const PIECE = { text: 1, score: 2, type: 3 } as const
const TRAINER = { modelType: 3 } as const
const NORMALIZER = { charsmap: 2, addsPrefix: 3, removesBlanks: 4, escapesBlanks: 5 } as const

const NORMAL_PIECE = 1
const BPE = 2

/**
 * Reads `tokenizer.model`: SentencePiece's BPE with byte tokens and without a normalizer, as Llama 2
 * and Mistral have it. Throws {@link ModelFileError}.
 */
export function readSentencePieceModel(file: Uint8Array): PieceVocabulary {
  const model = readMessage(file)
  const trainer = readMessage(lastBytes(model, MODEL.trainer))
  if (lastNumber(trainer, TRAINER.modelType, 1) !== BPE) {
    throw new ModelFileError('tokenizer.model: only the model type BPE is supported.')
  }
  const normalizer = readMessage(lastBytes(model, MODEL.normalizer))
  if (
    lastBytes(normalizer, NORMALIZER.charsmap).length > 0 ||
    lastNumber(normalizer, NORMALIZER.removesBlanks, 1) !== 0 ||
    lastNumber(normalizer, NORMALIZER.escapesBlanks, 1) !== 1
  ) {
    throw new ModelFileError('tokenizer.model: only the normalizer "identity" is supported.')
  }
  const writesBlank = lastNumber(normalizer, NORMALIZER.addsPrefix, 1) === 1
  const pieces = model
    .filter(({ number }) => number === MODEL.piece)
    .map(({ value }) => readMessage(bytesOf(value)))
  return checkPieces({
    kind: 'pieces',
    tokens: pieces.map((piece) => ({
      text: Buffer.from(lastBytes(piece, PIECE.text)).toString(),
      type: pieceTypeOf(lastNumber(piece, PIECE.type, NORMAL_PIECE)),
    })),
    order: { by: 'score', scores: pieces.map((piece) => lastNumber(piece, PIECE.score, 0)) },
    prefix: { before: writesBlank ? 'text' : 'nothing', onlyWhereNone: false },
  })
}

interface Field {
  readonly number: number
  readonly value: number | Uint8Array
}

/** The fields of a protobuf message. 64-bit numbers are not told: none is asked for. */
function readMessage(bytes: Uint8Array): readonly Field[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const fields: Field[] = []
  let at = 0

  function skip(length: number): number {
    const start = at
    at += length
    if (at > bytes.length) throw new ModelFileError('tokenizer.model is cut off.')
    return start
  }
  function readVarint(): number {
    let value = 0
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = view.getUint8(skip(1))
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
    throw new ModelFileError('tokenizer.model is damaged: a number is too long.')
  }
  function readValue(wireType: number): Field['value'] {
    switch (wireType) {
      case 0:
        return readVarint()
      case 1:
        skip(8)
        return 0
      case 2: {
        const length = readVarint()
        return bytes.subarray(skip(length), at)
      }
      case 5:
        return view.getFloat32(skip(4), true)
      default:
        throw new ModelFileError('tokenizer.model is no protobuf file.')
    }
  }

  while (at < bytes.length) {
    const tag = readVarint()
    fields.push({ number: Math.floor(tag / 8), value: readValue(tag % 8) })
  }
  return fields
}

function lastNumber(fields: readonly Field[], number: number, missing: number): number {
  const value = fields.findLast((field) => field.number === number)?.value
  return typeof value === 'number' ? value : missing
}

/** Empty where the field is missing. */
function lastBytes(fields: readonly Field[], number: number): Uint8Array {
  return bytesOf(fields.findLast((field) => field.number === number)?.value)
}

function bytesOf(value: Field['value'] | undefined): Uint8Array {
  return value instanceof Uint8Array ? value : new Uint8Array()
}
