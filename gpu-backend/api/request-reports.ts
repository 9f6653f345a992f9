import { BackendError } from '../errors.ts'
import type { BackendContext, Services } from './services.ts'

/** `GET /tallygate/requests/{id}`: what a request has used; see `requestReportSchema`. */
export function findRequestReport(c: BackendContext, services: Services): Response {
  const report = services.reports.find(c.req.param('id') ?? '')
  if (report) return c.json(report)
  throw new BackendError('not_found', 'No request of this id is running or was, lately.', {
    param: 'request_id',
  })
}
