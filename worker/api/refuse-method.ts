import type { MiddlewareHandler } from 'hono'
import { ApiError } from '../errors.ts'
import type { AppEnv } from './app-context.ts'

/** Answers what a path's own methods left over: 405, and which methods there are. */
export function refuseMethod(methods: readonly string[]): MiddlewareHandler<AppEnv> {
  const allowed = methods.join(', ')
  return (c) => {
    c.var.answerHeaders.set('allow', allowed)
    throw new ApiError('method_not_allowed', { message: `This endpoint answers ${allowed}.` })
  }
}
