import { z } from 'zod'
import { UNSUPPORTED } from './json-body.ts'

/** `response_format`. A schema is kept to exactly, whether `strict` or not. */
export const responseFormatSchema = z
  .looseObject({ type: z.string() })
  .refine(({ type }) => ['text', 'json_object', 'json_schema'].includes(type), {
    path: ['type'],
    message: 'must be text, json_object or json_schema',
    ...UNSUPPORTED,
  })
  .pipe(
    z.discriminatedUnion('type', [
      z.object({ type: z.literal('text') }),
      z.object({ type: z.literal('json_object') }),
      z.object({
        type: z.literal('json_schema'),
        json_schema: z.object({
          name: z
            .string()
            .regex(/^[a-zA-Z0-9_-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -'),
          schema: z.record(z.string(), z.unknown()).nullish(),
          strict: z.boolean().nullish(),
        }),
      }),
    ]),
  )

export type ResponseFormat = z.output<typeof responseFormatSchema>
