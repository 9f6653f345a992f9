import { setImmediate } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { AnswerMatcher } from '../../../gpu-backend/engine/answer-grammar.ts'
import {
  startThreadGrammars,
  type ThreadGrammars,
} from '../../../gpu-backend/grammar/thread-grammars.ts'
import { createXgrammar } from '../../../gpu-backend/grammar/xgrammar.ts'

const END = 0
const vocabulary = {
  tokenBytes: [new Uint8Array(), ...Array.from({ length: 256 }, (_, i) => Uint8Array.of(i))],
  vocabSize: 257,
  stopTokenIds: [END],
}
const GRAMMAR = 'root ::= "a" ("b" | "cd")* "."'
const TEXT = 'abcdb.'

let grammars: ThreadGrammars

beforeAll(async () => {
  grammars = await startThreadGrammars(vocabulary)
})

afterAll(() => grammars.close())

async function nextMask(matcher: AnswerMatcher): Promise<Int32Array> {
  matcher.seekMask()
  for (;;) {
    const mask = matcher.findMask()
    if (mask !== null) return mask
    await setImmediate()
  }
}

test('gives the masks of XGrammar, answers by turns', async () => {
  const open = await createXgrammar(vocabulary)
  const expected = await open(GRAMMAR)
  const matchers = [grammars.open(GRAMMAR), grammars.open(GRAMMAR)]
  for (const token of [...Buffer.from(TEXT)].map((byte) => byte + 1)) {
    const mask = await expected.nextMask()
    for (const matcher of matchers) {
      expect(await nextMask(matcher)).toEqual(mask)
      matcher.accept(token)
    }
    expected.accept(token)
  }
  for (const matcher of matchers) matcher.dispose()
})

test('a mask that was asked for stays until a token is accepted', async () => {
  const matcher = grammars.open(GRAMMAR)
  const mask = await nextMask(matcher)
  expect(await nextMask(matcher)).toBe(mask)
  matcher.accept(1 + 'a'.charCodeAt(0))
  expect(matcher.findMask()).toBeNull()
  expect(await nextMask(matcher)).not.toEqual(mask)
  matcher.dispose()
})

test('who leaves before its grammar is compiled, or accepts what it may not, disturbs no other', async () => {
  grammars.open('root ::= [a-z]{1,40}').dispose()
  const wrong = grammars.open(GRAMMAR)
  await nextMask(wrong)
  wrong.accept(1 + 'z'.charCodeAt(0))
  await expect(nextMask(wrong)).rejects.toThrow('the grammar allows')
  wrong.dispose()
  const matcher = grammars.open(GRAMMAR)
  await nextMask(matcher)
  matcher.dispose()
})

test('more grammars than are kept compiled are served', async () => {
  const early = grammars.open('root ::= "first" "last"')
  await nextMask(early)
  for (let index = 0; index < 70; index++) {
    const matcher = grammars.open(`root ::= "x${index}"`)
    await nextMask(matcher)
    matcher.dispose()
  }
  early.accept(1 + 'f'.charCodeAt(0))
  await nextMask(early)
  early.dispose()
})

test('when the thread is gone, who waits is told', async () => {
  const own = await startThreadGrammars(vocabulary)
  await own.close()
  const matcher = own.open(GRAMMAR)
  await expect(nextMask(matcher)).rejects.toThrow('grammar thread')
})
