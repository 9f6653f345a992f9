import { BLANK, type MergeOrder, type PieceVocabulary } from '../model/piece-vocabulary.ts'
import { mergePieces, type RankOf } from './merge-pieces.ts'
import { createSplitter, type WholeToken } from './split-at-tokens.ts'
import type { TextEncoding } from './text-encoding.ts'
import { isToolMarker } from './tool-form.ts'

/** Encodes by a SentencePiece vocabulary. What no piece spells becomes bytes, so that nothing is lost. */
export function createPieceEncoding(vocabulary: PieceVocabulary): TextEncoding {
  const { tokens, order, prefix } = vocabulary
  const specials = new Map<string, WholeToken>()
  const wholes = new Map<string, WholeToken>()
  const pieceIds = new Map<string, number>()
  const byteIds: number[] = []
  tokens.forEach(({ text, type, lstrip, rstrip }, id) => {
    if (type === 'control') specials.set(text, { id, lstrip, rstrip })
    else if (type === 'whole') wholes.set(text, { id, lstrip, rstrip })
    else if (type === 'piece') pieceIds.set(text, id)
    else if (type === 'byte') byteIds[byteOf(text)] = id
  })
  const rankOf = createRanks(order, pieceIds)
  const splitAtWholes = createSplitter(wholes)

  function toIds(piece: string): number | number[] {
    const id = pieceIds.get(piece)
    return id ?? Array.from(Buffer.from(piece), (byte) => byteIds[byte] ?? 0)
  }

  function encodePart(part: string, isFirst: boolean): number[] {
    const escaped = part.replaceAll(' ', BLANK)
    const wantsBlank = prefix.before === 'part' || (prefix.before === 'text' && isFirst)
    const isLeft = prefix.onlyWhereNone && escaped.startsWith(BLANK)
    return mergePieces(wantsBlank && !isLeft ? BLANK + escaped : escaped, rankOf).flatMap(toIds)
  }

  return {
    specials,
    encode: (text, isStart) =>
      splitAtWholes(text.toWellFormed()).flatMap((part, i) =>
        typeof part === 'number' ? part : encodePart(part, isStart && i === 0),
      ),
  }
}

/** [V] The bytes of each token; control tokens have none. */
export function listPieceBytes({ tokens }: PieceVocabulary): readonly Uint8Array[] {
  const encoder = new TextEncoder()
  return tokens.map(({ text, type }) => {
    if (type === 'byte') return Uint8Array.of(byteOf(text))
    if (type === 'piece') return encoder.encode(text.replaceAll(BLANK, ' '))
    return encoder.encode(type === 'whole' || isToolMarker(text) ? text : '')
  })
}

/** Of `<0x0A>`: 10. */
function byteOf(text: string): number {
  return Number.parseInt(text.slice(3, 5), 16)
}

/** Only what is a piece is merged: no text becomes a control token, however it is spelled. */
function createRanks(order: MergeOrder, pieceIds: ReadonlyMap<string, number>): RankOf {
  if (order.by === 'score') {
    return (left, right) => {
      const id = pieceIds.get(left + right)
      return id === undefined ? undefined : -(order.scores[id] ?? 0)
    }
  }
  const ranks = new Map<string, number>()
  // No piece has a blank in it, for it is written otherwise.
  order.merges.forEach(([left, right], rank) => {
    if (pieceIds.has(left + right)) ranks.set(`${left} ${right}`, rank)
  })
  return (left, right) => ranks.get(`${left} ${right}`)
}
