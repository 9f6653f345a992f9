import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createApiKey, parseApiKey } from '../../../worker/access/api-key.ts'

fc.configureGlobal({ seed: 1 })

const SECRET = 'a checksum secret of more than 32 characters'

describe('API keys', () => {
  it('name their account and are recognised by their hash alone', async () => {
    const created = await createApiKey('acct_a1B2', SECRET)
    expect(created.key).toMatch(/^tg_a1B2_[0-9a-zA-Z]{32}[0-9a-f]{16}$/)
    expect(created.keyHash).toMatch(/^[0-9a-f]{64}$/)
    expect(created.start).toBe(created.key.slice(0, 'tg_a1B2_'.length + 4))
    expect(await parseApiKey(created.key, SECRET)).toEqual({
      outcome: 'key',
      accountId: 'acct_a1B2',
      keyHash: created.keyHash,
    })
  })

  it('are never the same twice', async () => {
    const keys = await Promise.all(Array.from({ length: 50 }, () => createApiKey('acct_x', SECRET)))
    expect(new Set(keys.map(({ keyHash }) => keyHash)).size).toBe(50)
  })

  it('are garbage when any one character is another', async () => {
    const { key } = await createApiKey('acct_a1B2', SECRET)
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: key.length - 1 }),
        fc.string({ unit: 'binary', maxLength: 2 }),
        async (at, text) => {
          fc.pre(text !== key[at])
          const changed = key.slice(0, at) + text + key.slice(at + 1)
          expect(await parseApiKey(changed, SECRET)).toEqual({ outcome: 'garbage' })
        },
      ),
    )
  }, 30_000)

  it('are garbage under another checksum secret', async () => {
    const { key } = await createApiKey('acct_a1B2', SECRET)
    expect(await parseApiKey(key, `${SECRET}!`)).toEqual({ outcome: 'garbage' })
  })

  it.each([
    ['nothing', ''],
    ['a prefix', 'tg_'],
    ['a line break at the end', `tg_a_${'0'.repeat(48)}\n`],
    ['a lone surrogate', '\ud800'],
    ['NUL', '\0'],
    ['a foreign key', `sk-${'a'.repeat(48)}`],
    ['a megabyte', 'tg_'.repeat(350_000)],
  ])('are garbage, without an error, when they are %s', async (_, text) => {
    expect(await parseApiKey(text, SECRET)).toEqual({ outcome: 'garbage' })
  })

  it('are not made for what is no account id', async () => {
    await expect(createApiKey('acct_no spaces', SECRET)).rejects.toThrow('no account id')
  })
})
