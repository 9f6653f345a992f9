import { expect, test } from 'vitest'
import { createLog, describeError } from '../../worker/log.ts'

test('only fields on the list are written, whatever is handed in', () => {
  const lines: string[] = []
  const log = createLog((line) => void lines.push(line))
  const fields = { requestId: 'req_1', prompt: 'secret', headers: { authorization: 'secret' } }
  log('request', fields)
  expect(JSON.parse(lines[0]!)).toEqual({
    time: expect.any(String),
    event: 'request',
    requestId: 'req_1',
  })
})

test('what is said of an error quotes neither its input nor a key', () => {
  let thrown: unknown
  try {
    JSON.parse('secret prompt')
  } catch (error) {
    thrown = error
  }
  expect(JSON.stringify(describeError(thrown))).not.toContain('secret')
  const text = JSON.stringify(describeError(new Error('key tg_abc_0123456789 is bad')))
  expect(text).toContain('key tg_… is bad')
  expect(text).not.toContain('0123456789')
})
