import { PROMETHEUS_CONTENT_TYPE, writePrometheus } from '../telemetry/prometheus.ts'
import type { AppContext } from './app-context.ts'

/** `GET /metrics`: what this isolate has counted. */
export async function getMetrics(c: AppContext): Promise<Response> {
  const text = writePrometheus(c.var.services.telemetry.meters.read())
  return c.body(text, 200, { 'content-type': PROMETHEUS_CONTENT_TYPE })
}
