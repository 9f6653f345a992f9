import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { createGrammarBuilder } from '../../../gpu-backend/grammar/json-schema.ts'
import { SchemaError } from '../../../gpu-backend/grammar/schema-parts.ts'
import { createGrammarWalk, type GrammarWalk } from '../../support/grammar-walk.ts'
import { anySchema, isValid, partOfObject } from '../../support/json-schemas.ts'

let walk: GrammarWalk

beforeAll(async () => {
  walk = await createGrammarWalk()
})

const accepts = (grammar: string, text: string) => walk.accepts(grammar, text)

function grammarOf(schema: unknown): string {
  const builder = createGrammarBuilder()
  return builder.build(builder.addSchema(schema))
}

test('whatever a grammar lets through parses and is valid by its schema', async () => {
  let endedCount = 0
  await fc.assert(
    fc.asyncProperty(anySchema, fc.nat(), async (schema, seed) => {
      const text = await walk.writeAtRandom(grammarOf(schema), seed)
      if (text === null) return
      endedCount++
      expect(isValid(schema, JSON.parse(text)), `${JSON.stringify(schema)}: ${text}`).toBe(true)
    }),
    { numRuns: 200, seed: 4 },
  )
  expect(endedCount).toBeGreaterThan(150)
})

test.each<[object, string, string]>([
  [{ type: 'integer', minimum: -12, maximum: 105 }, '-12 0 7 99 105', '-13 106 00 -0 1.0'],
  [{ type: 'integer', exclusiveMinimum: 0 }, '1 9 1234', '0 -1'],
  [{ type: 'integer', maximum: -5 }, '-5 -17', '-4 0 5'],
  [{ type: 'number', minimum: 0, maximum: 1 }, '0 0.5 1 1.0 0.001', '-0.1 1.01 2'],
  [{ type: 'number', minimum: -1 }, '-1 -0.5 0.5 12', '-1.5 -2'],
  [{ type: 'string', format: 'date' }, '"2024-02-28" "1999-12-31"', '"2024-02-30" "2024-13-01"'],
  [{ type: 'string', format: 'date' }, '"2024-02-29" "2000-02-29"', '"2023-02-29" "1900-02-29"'],
  [{ type: 'string', format: 'duration' }, '"P1Y2M" "PT5M" "P3W"', '"P" "PT" "P1S"'],
  [{ type: 'string', format: 'hostname' }, '"a.example" "x-y.org"', '"-a" "a..b" ""'],
  [{ type: 'string', format: 'ipv6' }, '"::1" "2001::7" "1:2:3:4:5:6:7:8"', '"1" ":::" "g::1"'],
  [{ type: 'string', format: 'ipv4', pattern: '^10' }, '"10.0.0.1"', '"11.0.0.1" "10"'],
  [{ type: 'string', format: 'starts_with', pattern: '^ab.*' }, '"ab" "abc"', '"a" "b"'],
  [{ type: 'string', minLength: 2, maxLength: 3 }, '"ab" "äöü" "a\\n"', '"a" "abcd" "ab'],
  [{ enum: ['a b', 1, null] }, '"a\u0020b" 1 null', '"a" 2'],
  [{ type: ['string', 'null'] }, 'null ""', '1 nul'],
  [{ type: 'array', items: { type: 'boolean' }, minItems: 1, maxItems: 2 }, '[true]', '[] [true,]'],
  [{ $ref: '#/$defs/a', $defs: { a: { const: 'é😀' } } }, '"é😀"', '"e"'],
])('%j', async (schema, good, bad) => {
  const grammar = grammarOf(schema)
  const texts = (list: string) => list.replaceAll('\u0020b', '\u2420b').split(' ')
  for (const text of texts(good)) {
    expect(await accepts(grammar, text.replaceAll('\u2420', ' ')), text).toBe(true)
  }
  for (const text of texts(bad)) expect(await accepts(grammar, text), text).toBe(false)
})

test('properties come in the order of the schema, and optional ones may be missing', async () => {
  const grammar = grammarOf({
    type: 'object',
    properties: { a: { type: 'integer' }, b: { type: 'null' }, c: { type: 'integer' } },
    required: ['b'],
  })
  for (const text of ['{"b": null}', '{"a": 1, "b": null, "c": 2}', '{"b": null, "c": 2}']) {
    expect(await accepts(grammar, text), text).toBe(true)
  }
  for (const text of [
    '{}',
    '{"a": 1}',
    '{"b": null, "a": 1}',
    '{"b": null, "d": 1}',
    '{ "b": null}',
  ]) {
    expect(await accepts(grammar, text), text).toBe(false)
  }
})

test('a schema may contain itself', async () => {
  const tree = { type: 'object', properties: { next: { $ref: '#' } } }
  expect(await accepts(grammarOf(tree), '{"next": {"next": {}}}')).toBe(true)
})

test('schemas that must hold together are merged, with what stands beside a reference or a union', async () => {
  const base = { type: 'object', properties: { id: { type: 'integer', minimum: 1 } } }
  const grammar = grammarOf({
    $defs: { base },
    allOf: [{ $ref: '#/$defs/base' }, { properties: { id: { maximum: 3 }, b: { type: 'null' } } }],
    anyOf: [{ required: ['id'] }, { required: ['b'] }],
  })
  for (const text of ['{"id": 3}', '{"b": null}', '{"id": 1, "b": null}']) {
    expect(await accepts(grammar, text), text).toBe(true)
  }
  for (const text of ['{}', '{"id": 0}', '{"id": 4}', '{"id": 1.5}', '{"b": 1}']) {
    expect(await accepts(grammar, text), text).toBe(false)
  }
})

test('merged schemas allow just what is valid by each of them', async () => {
  const schemas = fc.array(partOfObject, { minLength: 2, maxLength: 3 })
  const values = fc.infiniteStream(fc.option(fc.integer({ min: -40, max: 40 }), { freq: 9 }))
  const counts = { valid: 0, invalid: 0 }
  await fc.assert(
    fc.asyncProperty(schemas, values, async (parts, numbers) => {
      const allOf = JSON.parse(JSON.stringify(parts))
      const properties = parts.flatMap((part) => Object.entries(part.properties))
      const names = Object.keys(Object.fromEntries(properties))
      fc.pre(names.length > 0)
      const members = names.flatMap((name): [string, number][] => {
        const number = numbers.next().value
        return number == null ? [] : [[name, number]]
      })
      const answer = Object.fromEntries(members)
      const isAnswer = isValid({ allOf }, answer)
      counts[isAnswer ? 'valid' : 'invalid']++
      const text = members.map(([name, number]) => `${JSON.stringify(name)}: ${number}`).join(', ')
      expect(await accepts(grammarOf({ allOf }), `{${text}}`), text).toBe(isAnswer)
    }),
    { numRuns: 200, seed: 4 },
  )
  expect(Math.min(counts.valid, counts.invalid)).toBeGreaterThan(30)
})

test('a schema with something beside its references may contain itself', async () => {
  const next = { $ref: '#', required: ['next'] }
  const grammar = grammarOf({ properties: { next: { anyOf: [next, { type: 'null' }] } } })
  expect(await accepts(grammar, '{"next": {"next": {"next": null}}}')).toBe(true)
  expect(await accepts(grammar, '{"next": {}}')).toBe(false)
})

const kindOf = (kind: object) => ({ type: 'object', properties: { kind }, required: ['kind'] })

test('a union that names its options by a constant is one of them, behind references too', async () => {
  const grammar = grammarOf({
    $defs: { a: kindOf({ const: 'a' }), b: kindOf({ enum: ['b', 'c'] }) },
    discriminator: { propertyName: 'kind' },
    oneOf: [{ $ref: '#/$defs/a' }, { allOf: [{ $ref: '#/$defs/b' }], description: 'B.' }],
  })
  for (const kind of 'abc') expect(await accepts(grammar, `{"kind": "${kind}"}`)).toBe(true)
  expect(await accepts(grammar, '{"kind": "d"}')).toBe(false)
})

describe('a schema that no grammar can keep is refused, with the keyword at fault', () => {
  const nested = (depth: number): object =>
    depth === 0 ? {} : { type: 'array', items: nested(depth - 1) }
  const inA = (property: object) => ({ type: 'object', properties: { a: property } })
  test.each<[object | boolean, string]>([
    [false, ''],
    [{ type: 'text' }, 'type'],
    [inA({ type: 'string', pattern: '(' }), 'properties.a.pattern'],
    [inA({ type: 'string', pattern: '^a$', minLength: 2 }), 'properties.a.pattern'],
    [inA({ type: 'string', format: 'regex' }), 'properties.a.format'],
    [inA({ type: 'number', multipleOf: 2 }), 'properties.a.multipleOf'],
    [inA({ type: 'number', minimum: 0.5 }), 'properties.a.minimum'],
    [inA({ type: 'number', exclusiveMinimum: 0 }), 'properties.a.exclusiveMinimum'],
    [inA({ type: 'integer', minimum: 5, maximum: 4 }), 'properties.a'],
    [inA({ type: 'array', items: [{}] }), 'properties.a.items'],
    [{ type: 'array', uniqueItems: true }, 'uniqueItems'],
    [{ type: 'array', minItems: 3, maxItems: 2 }, 'minItems'],
    [{ type: 'string', maxLength: 1e9 }, 'maxLength'],
    [{ type: 'object', required: ['b'] }, 'required'],
    [{ oneOf: [] }, 'oneOf'],
    [{ oneOf: [{ type: 'string' }, {}] }, 'oneOf[1]'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, 'oneOf[1]'],
    [{ oneOf: [{ const: 1 }, { enum: [2, 1] }] }, 'oneOf[1]'],
    [{ oneOf: [kindOf({ const: 'a' }), kindOf({ type: 'string' })] }, 'oneOf[1]'],
    [
      { oneOf: ['a', 'b'].map((kind) => ({ ...kindOf({ const: kind }), required: [] })) },
      'oneOf[1]',
    ],
    [{ oneOf: Array.from({ length: 65 }, (_, i) => ({ const: i })) }, 'oneOf'],
    [{ allOf: [{ type: 'null' }], type: 'string' }, 'type'],
    [{ allOf: [{ pattern: 'a' }, { pattern: 'b' }] }, 'allOf[1].pattern'],
    [{ allOf: [{ enum: [1, 2] }, { minimum: 2 }] }, 'allOf[1].minimum'],
    [{ allOf: [{ enum: [1] }, { const: 2 }] }, 'allOf[1].enum'],
    [{ allOf: [inA({}), { required: ['b'] }] }, 'required'],
    [{ allOf: [{ $ref: '#' }], type: 'object' }, 'allOf[0].$ref'],
    [{ anyOf: null, type: 'string' }, 'anyOf'],
    [
      {
        enum: ['a'.repeat(10_000)],
        anyOf: Array.from({ length: 10 }, () => ({ type: 'string' })),
      },
      'anyOf[6]',
    ],
    [{ type: 'string', maxLength: 129 }, 'maxLength'],
    [{ not: {} }, 'not'],
    [{ anyOf: [] }, 'anyOf'],
    [{ anyOf: [{ type: 'string' }, { allOf: [] }] }, 'anyOf[1].allOf'],
    [{ enum: [] }, 'enum'],
    [{ type: 'string', enum: [1] }, 'enum'],
    [{ $ref: '#' }, '$ref'],
    [{ $ref: '#/$defs/b' }, '$ref'],
    [{ $ref: 'https://example.org/schema' }, '$ref'],
    [
      { anyOf: [{ $ref: '#/$defs/a' }], $defs: { a: { anyOf: [{ $ref: '#' }] } } },
      'anyOf[0].$ref.anyOf[0].$ref',
    ],
    [nested(40), Array(33).fill('items').join('.')],
    [
      {
        type: 'object',
        properties: Object.fromEntries(Array.from({ length: 2_001 }, (_, i) => [i, true])),
      },
      'properties.1999',
    ],
    [{ description: 'a'.repeat(70_000) }, ''],
  ])('%#', (schema, path) => {
    const refused = () => grammarOf(schema)
    expect(refused).toThrow(SchemaError)
    expect(refused).toThrow(expect.objectContaining({ path }))
  })
})
