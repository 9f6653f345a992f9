import { registerStartupAdapters, restoreAdapters } from './adapters/startup-adapters.ts'
import { startServer } from './api/server.ts'
import { readConfig } from './config.ts'
import { createServices, openStores } from './create-services.ts'
import { planEngine } from './engine-options.ts'
import { createLog, keepFrames } from './log.ts'
import { createStop } from './shutdown.ts'
import { explainStartFailure, requireFolder } from './start-failure.ts'
import { startThreadEngine } from './thread-engine.ts'

/** The backend's composition root: configuration → engine thread → adapters → HTTP. */

const log = createLog(Date.now)

await start().catch((error: unknown) => {
  process.stderr.write(`${explainStartFailure(error)}\n`)
  process.exit(1)
})

async function start(): Promise<void> {
  const config = readConfig()
  await requireFolder('ADAPTERS_DIR', config.ADAPTERS_DIR)
  await requireFolder('DATANETS_DIR', config.DATANETS_DIR)
  const stores = await openStores(config)
  const engine = await startThreadEngine(planEngine(config), ({ detail, requestIds }) =>
    log('error', 'engine_fault', { requestId: requestIds.join(), stack: keepFrames(detail) }),
  )
  const shutdown = new AbortController()
  const services = createServices(config, {
    engine,
    ...stores,
    log,
    shutdownSignal: shutdown.signal,
  })
  const { adapters, adapterIntake } = services
  const startup = { adapters, planAdapter: adapterIntake.planFolder, log }
  await restoreAdapters(stores.store?.records ?? [], startup)
  if (config.ADAPTERS_DIR !== undefined) await registerStartupAdapters(config.ADAPTERS_DIR, startup)
  const server = await startServer(services, { host: config.HOST, port: config.PORT })
  const stop = createStop({ server, engine, shutdown, graceMs: config.SHUTDOWN_GRACE_MS, log })
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
  void engine.closed.then((error) => error && stop('engine'))
  const { id: model, digest } = services.model
  const line = { event: 'listening', url: server.url, model, digest }
  process.stdout.write(`${JSON.stringify(line)}\n`)
}
