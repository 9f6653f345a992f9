const LOOPBACK_HOSTS = ['localhost', '127.0.0.1', '[::1]']

/** Names that resolve inside somebody's network, if at all. */
const PRIVATE_SUFFIXES = ['localhost', 'local', 'internal', 'lan', 'home.arpa', 'test', 'invalid']

/**
 * Why an address may not be called by a webhook; null when it may. Only https to a public name on its
 * default port: an address literal, in whatever notation, or a name without a dot may be a
 * machine of the operator's network. `allowsLoopback` lets this machine through, for tests.
 */
export function explainWebhookUrl(
  text: string,
  { allowsLoopback }: { readonly allowsLoopback: boolean },
): string | null {
  if (text.length > 2_000 || !URL.canParse(text)) return 'must be a URL'
  const url = new URL(text) // which writes every notation of an IPv4 address as four numbers
  if (url.username !== '' || url.password !== '') return 'must not hold credentials'
  if (allowsLoopback && LOOPBACK_HOSTS.includes(url.hostname)) {
    return ['http:', 'https:'].includes(url.protocol) ? null : 'must be http or https'
  }
  if (url.protocol !== 'https:') return 'must be https'
  if (url.port !== '') return 'must use the default port'
  const labels = url.hostname.replace(/\.$/, '').split('.')
  const isAddress = url.hostname.startsWith('[') || /^\d+$/.test(labels.at(-1) ?? '')
  const isPrivate = PRIVATE_SUFFIXES.some((suffix) => `.${labels.join('.')}`.endsWith(`.${suffix}`))
  if (isAddress || isPrivate || labels.length < 2) return 'must name a public host'
  return null
}
