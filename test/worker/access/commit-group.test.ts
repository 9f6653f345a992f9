import { describe, expect, it } from 'vitest'
import { CommitGroup } from '../../../worker/access/commit-group.ts'

/** A group over a list that a failed transaction leaves as it was. */
function createGroup({ isBusy }: { readonly isBusy: boolean }) {
  let stored: readonly string[] = []
  let commitCount = 0
  const written: string[] = []
  const group = new CommitGroup({
    isBusy: () => isBusy,
    transact: (closure) => {
      written.splice(0, written.length, ...stored)
      const result = closure()
      stored = [...written]
      commitCount += 1
      return result
    },
  })
  const write = (text: string) => () => written.push(text)
  return { group, write, stored: () => stored, commitCount: () => commitCount }
}

const multiples = (of: number) => Array.from({ length: 40 }, (_, index) => index * of)

function fail(): never {
  throw new RangeError('not this one')
}

describe('operations on the books of one object', () => {
  it('share a commit when they come together, in their order', async () => {
    const { group, write, stored, commitCount } = createGroup({ isBusy: true })
    const texts = Array.from({ length: 20 }, (_, index) => `operation ${index}`)
    const results = await Promise.all(texts.map((text) => group.run(write(text), 1_000)))
    expect(stored()).toEqual(texts)
    expect(results).toEqual(texts.map((_, index) => index + 1))
    expect(commitCount()).toBe(9) // before the first eight there was no burst
  })

  it('run at once when they come alone', () => {
    const { group, write, stored } = createGroup({ isBusy: false })
    for (const text of ['a', 'b']) group.run(write(text), 1_000)
    expect(stored()).toEqual(['a', 'b'])
  })

  it('run at once while they come no faster than one in 4 ms, or in pairs', () => {
    for (const timesMs of [multiples(4), multiples(10).flatMap((atMs) => [atMs, atMs])]) {
      const { group, write, stored } = createGroup({ isBusy: true })
      for (const atMs of timesMs) group.run(write('a'), atMs)
      expect(stored()).toHaveLength(timesMs.length)
    }
  })

  it('fail alone: what came with it is committed', async () => {
    const { group, write, stored } = createGroup({ isBusy: true })
    for (let count = 0; count < 8; count++) group.run(write('early'), 1_000)
    const operations = [write('a'), fail, write('b')]
    const results = await Promise.allSettled(operations.map((each) => group.run(each, 1_000)))
    expect(stored().slice(8)).toEqual(['a', 'b'])
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
  })
})
