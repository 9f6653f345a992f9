import fc from 'fast-check'
import { expect, test } from 'vitest'
import { HostPages } from '../../../gpu-backend/compute/host-pages.ts'
import type { NewHeads, PagedRow } from '../../../gpu-backend/compute/kv-store.ts'
import {
  type KvForm,
  PRESENT,
  PRESENT_INTEGERS,
  PRESENT_PEAKS,
  pagesInput,
  peaksInput,
} from '../../../gpu-backend/model/graph-inputs.ts'
import { TINY_CONFIG } from '../../support/random-model.ts'

const { layerCount, kvHeadCount, headSize } = TINY_CONFIG
const TOKEN_SIZE = kvHeadCount * headSize

/** A run's outputs for `count` tokens, every number naming its row, position, part and element. */
function createPresent(row: PagedRow, count: number): Required<NewHeads> {
  const name = <T extends Float32Array | Int8Array>(values: T, tokenSize: number): T => {
    for (let i = 0; i < values.length; i++) {
      const part = Math.floor(i / (count * tokenSize))
      const token = Math.floor(i / tokenSize) % count
      values[i] = nameOf(row, { position: row.length + token, part, element: i % tokenSize })
    }
    return values
  }
  const tokenCount = 2 * layerCount * count
  return {
    [PRESENT]: name(new Float32Array(tokenCount * TOKEN_SIZE), TOKEN_SIZE),
    [PRESENT_INTEGERS]: name(new Int8Array(tokenCount * TOKEN_SIZE), TOKEN_SIZE),
    [PRESENT_PEAKS]: name(new Float32Array(tokenCount * kvHeadCount), kvHeadCount),
  }
}

function nameOf(
  row: PagedRow,
  { position, part, element }: { position: number; part: number; element: number },
): number {
  return ((row.id * 300 + position) * 2 * layerCount + part) * TOKEN_SIZE + element + 1
}

test.each<KvForm>(['float32', 'int8'])(
  'every row keeps its tokens in %s, and every page without a row its content, whatever grows, leaves and is gathered',
  (kvForm) => {
    const action = fc.oneof(
      fc.record({
        kind: fc.constant('create' as const),
        capacity: fc.integer({ min: 1, max: 200 }),
      }),
      fc.record({
        kind: fc.constant('append' as const),
        row: fc.nat(9),
        count: fc.integer({ min: 1, max: 90 }),
      }),
      fc.record({ kind: fc.constant('free' as const), row: fc.nat(9) }),
      fc.record({
        kind: fc.constant('arrange' as const),
        decode: fc.nat(1023),
        chunk: fc.nat(1023),
      }),
    )
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
        const pages = new HostPages(TINY_CONFIG, 64 * 10, kvForm)
        const rows: PagedRow[] = []
        const free = new Set(Array.from({ length: 10 }, (_, page) => page))
        const pagesOfRow = new Map<PagedRow, number[]>()
        for (const step of actions) {
          if (step.kind === 'create') {
            const count = Math.ceil(step.capacity / 64)
            if (count > free.size) continue
            const row = pages.createRow()
            const own = [...free].slice(-count)
            for (const page of own) {
              pages.addPage(row, page, 'empty')
              free.delete(page)
            }
            pagesOfRow.set(row, own)
            rows.push(row)
            continue
          }
          if (step.kind === 'arrange') {
            const decode = rows.filter((_, i) => step.decode & (1 << i))
            const chunk = rows.filter((row, i) => step.chunk & (1 << i) && !decode.includes(row))
            checkRanges(pages, kvForm, { decode, chunk })
            continue
          }
          const row = rows[step.row % Math.max(1, rows.length)]
          if (!row) continue
          if (step.kind === 'free') {
            checkReopened(pages, kvForm, { row, own: pagesOfRow.get(row)! })
            rows.splice(rows.indexOf(row), 1)
            for (const page of pagesOfRow.get(row)!) free.add(page)
          } else {
            const count = Math.min(step.count, row.capacity - row.length)
            if (count === 0) continue
            const running = { kv: row, group: 'chunk', firstToken: 0, tokenCount: count } as const
            pages.append([running], createPresent(row, count))
          }
        }
        checkRanges(pages, kvForm, { decode: rows, chunk: [] })
      }),
      { seed: 1, numRuns: 60 },
    )
  },
)

/** Frees the row, lets others be gathered where its pages lay, and finds its full pages in a new row; frees that too. */
function checkReopened(
  pages: HostPages,
  kvForm: KvForm,
  { row, own }: { readonly row: PagedRow; readonly own: readonly number[] },
): void {
  const full = own.slice(0, Math.floor(row.length / 64))
  pages.freeRow(row)
  const again = Object.assign(pages.createRow(), { id: row.id })
  for (const page of full) pages.addPage(again, page, 'filled')
  expect(again.length).toBe(full.length * 64)
  checkRanges(pages, kvForm, { decode: [], chunk: [again] })
  pages.freeRow(again)
}

/** Gathers the rows and reads back every token, and zeros behind the last one. */
function checkRanges(
  pages: HostPages,
  kvForm: KvForm,
  rows: Parameters<HostPages['arrange']>[0],
): void {
  const ranges = pages.arrange(rows)
  for (const group of ['decode', 'chunk'] as const) {
    const { count, indexOf, feeds } = ranges[group]
    const owned = rows[group].reduce((sum, row) => sum + row.pages.length, 0)
    expect(count).toBe(Math.max(1, owned))
    let wrongCount = 0
    for (const row of rows[group]) {
      for (let position = 0; position < row.pages.length * 64; position++) {
        const page = indexOf(row.pages[Math.floor(position / 64)]!)
        for (let layer = 0; layer < layerCount; layer++) {
          for (const [i, part] of (['k', 'v'] as const).entries()) {
            const { data } = feeds[pagesInput(group, { part, layer })]!
            const isAcross = kvForm === 'int8' && part === 'k'
            const slot = position % 64
            const expected = (element: number) =>
              position < row.length
                ? nameOf(row, { position, part: i * layerCount + layer, element })
                : 0
            for (let element = 0; element < TOKEN_SIZE; element++) {
              const head = page * kvHeadCount + Math.floor(element / headSize)
              const d = element % headSize
              const at = isAcross
                ? (head * headSize + d) * 64 + slot
                : (head * 64 + slot) * headSize + d
              const name = expected(element)
              if (data[at] !== (kvForm === 'int8' ? (name << 24) >> 24 : name)) wrongCount++
            }
            if (kvForm === 'float32') continue
            const peaks = feeds[peaksInput(group, { part, layer })]!.data
            for (let head = 0; head < kvHeadCount; head++) {
              if (peaks[(page * kvHeadCount + head) * 64 + slot] !== expected(head)) wrongCount++
            }
          }
        }
      }
    }
    expect(wrongCount).toBe(0)
  }
}

test('a budget below one page is refused by name', () => {
  expect(() => new HostPages(TINY_CONFIG, 63, 'int8')).toThrow('KV budget of 63 tokens')
})
