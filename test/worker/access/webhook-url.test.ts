import { expect, test } from 'vitest'
import { explainWebhookUrl } from '../../../worker/access/webhook-url.ts'

const REFUSED = [
  'http://example.com/',
  'ftp://example.com/',
  'https://example.com:8443/',
  'https://user:secret@example.com/',
  'https://127.0.0.1/',
  'https://2130706433/',
  'https://0x7f.1/',
  'https://0177.0.0.1/',
  'https://10.0.0.7/',
  'https://169.254.169.254/latest/meta-data',
  'https://8.8.8.8/',
  'https://[::1]/',
  'https://[::ffff:127.0.0.1]/',
  'https://[fd00::1]/',
  'https://localhost/',
  'https://LOCALHOST./',
  'https://app.localhost/',
  'https://metadata.google.internal/',
  'https://printer.local/',
  'https://intranet/',
  'https://１２７.0.0.1/',
  'file:///etc/passwd',
  'example.com',
  '',
  `https://example.com/${'x'.repeat(2_000)}`,
]

test('a webhook reaches no address inside a network', () => {
  for (const url of REFUSED)
    expect([url, explainWebhookUrl(url, { allowsLoopback: false })]).toEqual([
      url,
      expect.any(String),
    ])
  expect(explainWebhookUrl('https://hooks.example.com/a?b=c', { allowsLoopback: false })).toBeNull()
})

test('with loopback allowed this machine is reached, and nothing else besides', () => {
  const explain = (url: string) => explainWebhookUrl(url, { allowsLoopback: true })
  for (const url of ['http://127.0.0.1:8080/', 'https://localhost/', 'http://[::1]:1/'])
    expect(explain(url)).toBeNull()
  for (const url of ['http://10.0.0.7/', 'http://example.com/', 'ftp://127.0.0.1/'])
    expect(explain(url)).toEqual(expect.any(String))
})
