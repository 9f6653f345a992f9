import fc from 'fast-check'
import { expect, test } from 'vitest'
import { takeTurns } from '../../../gpu-backend/engine/prompt-turns.ts'
import { TIERS } from '../../../protocol/backend.ts'

const TENANTS = ['a', 'b', 'c', 'd']

const promptsArbitrary = fc
  .array(
    fc.record({
      tenant: fc.constantFrom(...TENANTS),
      tier: fc.constantFrom(...TIERS),
      aged: fc.nat(2),
      level: fc.nat(2),
    }),
    { minLength: 1, maxLength: 8 },
  )
  .map((fields) => fields.map((field, serial) => ({ ...field, serial, arrivedAtMs: 0 })))

type Prompt = (typeof promptsArbitrary extends fc.Arbitrary<infer T> ? T : never)[number]

const NO_RIGHTS = {
  agedLevelOf: ({ aged }: Prompt) => aged,
  levelOf: ({ level }: Prompt) => level,
  usedBy: () => 0,
  passedOverCount: () => 0,
  maxPassedOverCount: 5,
}

test('gives each prompt one turn: of a tenant the more urgent and earlier first, between tenants the more urgent and who used less', () => {
  fc.assert(
    fc.property(promptsArbitrary, fc.array(fc.nat(3), { minLength: 4 }), (prompts, used) => {
      const usedBy = (tenant: string) => used[TENANTS.indexOf(tenant)]!
      const turns = [...takeTurns(prompts, { ...NO_RIGHTS, usedBy })]
      expect([...turns].sort((a, b) => a.serial - b.serial)).toEqual(prompts)
      for (const tenant of TENANTS) {
        const own = turns.filter((prompt) => prompt.tenant === tenant)
        const due = own.toSorted((a, b) => a.aged - b.aged || a.serial - b.serial)
        expect(own).toEqual(due)
      }
      for (const [index, prompt] of turns.entries()) {
        const heads = TENANTS.flatMap((tenant) => {
          const head = turns.slice(index).find((other) => other.tenant === tenant)
          return head === undefined ? [] : [head]
        })
        for (const head of heads) {
          expect(prompt.level).toBeLessThanOrEqual(head.level)
          if (prompt.level < head.level) continue
          expect(usedBy(prompt.tenant)).toBeLessThanOrEqual(usedBy(head.tenant))
        }
      }
    }),
  )
})

test('whatever levels and charges come, no tenant is passed over for long', () => {
  fc.assert(
    fc.property(
      promptsArbitrary,
      fc.infiniteStream(fc.tuple(fc.nat(2), fc.nat(9))),
      (prompts, luck) => {
        const servedAt = new Map(prompts.map(({ tenant }) => [tenant, 0]))
        for (let chunkCount = 0; chunkCount < 60; chunkCount++) {
          const passedOverCount = (tenant: string) => chunkCount - servedAt.get(tenant)!
          const levels = new Map(prompts.map((prompt) => [prompt, luck.next().value[0]]))
          const rights = {
            ...NO_RIGHTS,
            levelOf: (prompt: Prompt) => levels.get(prompt)!,
            usedBy: () => luck.next().value[1],
            passedOverCount,
          }
          const [first] = takeTurns(prompts, rights)
          servedAt.set(first!.tenant, chunkCount + 1)
          const most = Math.max(...[...servedAt.keys()].map(passedOverCount))
          expect(most).toBeLessThan(NO_RIGHTS.maxPassedOverCount + TENANTS.length)
        }
      },
    ),
  )
})
