import { BackendError } from '../errors.ts'
import type { BackendContext, Services } from './services.ts'

/** `GET /tallygate/requests/{id}`: what a request has used; see `requestReportSchema`. */
export async function findRequestReport(c: BackendContext, services: Services): Promise<Response> {
  const id = c.req.param('id') ?? ''
  const report = services.reports.find(id)
  if (report?.state === 'running') {
    return c.json({ ...report, queue_position: await services.findQueuePosition(id) })
  }
  if (report) return c.json(report)
  throw new BackendError('not_found', 'No request of this id is running or was, lately.', {
    param: 'request_id',
  })
}
