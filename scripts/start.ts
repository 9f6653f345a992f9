import { parseStartOptions, START_USAGE, type StartOptions } from './start-options.ts'
import { type Stack, startStack } from './start-stack.ts'

/** `npm start`: everything on this machine, until Ctrl-C. */
async function main(): Promise<void> {
  const options = parseStartOptions(process.argv.slice(2))
  if (options === 'help') {
    console.log(START_USAGE)
    return
  }
  const stack = await startStack(options, (line) => process.stderr.write(`${line}\n`), process.env)
  const { close, ...printable } = stack
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      close().then(
        () => process.exit(0),
        () => process.exit(1),
      )
    })
  }
  console.log(options.json ? JSON.stringify(printable) : describe(options, printable))
}

function describe(options: StartOptions, stack: Stack): string {
  const upstream = options.upstreamUrl === null ? '' : ` (upstream ${options.upstreamUrl})`
  return `
Tallygate is up${upstream}.

  base URL   ${stack.baseUrl}
  API key    ${stack.apiKey}
  health     ${stack.dashboardUrl}
  chain      ${stack.rpcUrl}
  state      ${options.stateDir}

  curl ${stack.baseUrl}/chat/completions \\
    -H 'authorization: Bearer ${stack.apiKey}' -H 'content-type: application/json' \\
    -d '{"model": "${stack.model ?? 'MODEL'}", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'

Ctrl-C stops it.`
}

try {
  await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : error)
  process.exit(1)
}
