import { z } from 'zod'
import { BackendError } from '../errors.ts'
import type { LoraModuleKey } from './lora-weights.ts'
import {
  createMatchBudget,
  type LinearModule,
  listLinearModules,
  type MatchBudget,
  matchesSuffix,
  matchPatternKey,
  matchWhole,
  PatternError,
} from './module-patterns.ts'

/** What one linear layer of the base model gets from an adapter. */
export interface ModulePlan extends LinearModule {
  readonly rank: number
  /** α/R, or α/√R for rsLoRA. */
  readonly scale: number
}

const MAX_RANK = 256

const rankSchema = z.int().min(1).max(MAX_RANK)
const nameListSchema = z.array(z.string().min(1)).min(1)
const MAX_PATTERN_COUNT = 2000
const patternsOf = <Value extends z.ZodType>(value: Value) =>
  z
    .record(z.string().min(1), value)
    .refine(
      (patterns) => Object.keys(patterns).length <= MAX_PATTERN_COUNT,
      `has more than ${MAX_PATTERN_COUNT} patterns`,
    )

/** A feature that must not be used: absent, null, false or empty. */
const off = (sentence: string) =>
  z
    .unknown()
    .refine((value) => {
      if (value === undefined || value === null || value === false) return true
      return typeof value === 'object' && Object.keys(value).length === 0
    }, sentence)
    .optional()

/** Initialisations that leave the base weights as they are; PiSSA, OLoRA, LoftQ and CorDA change them. */
const HARMLESS_INITS = [true, false, null, 'gaussian', 'eva', 'orthogonal'] as const

/** The fields of PEFT 0.19's `LoraConfig` that change what an adapter computes. */
const configSchema = z.looseObject({
  peft_type: z.literal('LORA'),
  r: rankSchema,
  lora_alpha: z.number(),
  use_rslora: z.boolean().nullish(),
  target_modules: z.union([z.string().min(1), nameListSchema], {
    error: 'must be a list of module names or a regular expression',
  }),
  exclude_modules: z.union([z.string().min(1), z.array(z.string())]).nullish(),
  layers_to_transform: z.union([z.int().min(0), z.array(z.int().min(0))]).nullish(),
  layers_pattern: z.union([z.string(), z.array(z.string())]).nullish(),
  rank_pattern: patternsOf(rankSchema).nullish(),
  alpha_pattern: patternsOf(z.number()).nullish(),
  bias: z.literal('none', 'trained biases are not supported, only "none"').nullish(),
  init_lora_weights: z
    .literal(HARMLESS_INITS, 'this initialisation changes the base weights and is not supported')
    .optional(),
  use_dora: off('DoRA is not supported'),
  modules_to_save: off('fully trained modules are not supported'),
  lora_bias: off('trained biases are not supported'),
  layer_replication: off('replicated layers are not supported'),
  trainable_token_indices: off('trained token embeddings are not supported'),
  target_parameters: off('adapters of bare parameters are not supported'),
  alora_invocation_tokens: off('activated LoRA is not supported'),
})

type PeftConfig = z.infer<typeof configSchema>

/** Switches that are known and handled above, or that do not change the result. */
const KNOWN_SWITCHES = new Set(['use_rslora', 'use_dora'])

/**
 * Which linear layers an `adapter_config.json` changes, and how, by PEFT's own matching rules.
 * Throws `adapter_rejected` naming the field at fault; at least one module is returned.
 */
export function planModules(
  config: unknown,
  layerCount: number,
): ReadonlyMap<LoraModuleKey, ModulePlan> {
  const parsed = configSchema.safeParse(config)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw rejected(issue?.path.map(String).join('.') || 'adapter_config.json', issue?.message ?? '')
  }
  refuseUnknownSwitches(parsed.data)
  const budget = createMatchBudget()
  const targets = pickTargets(parsed.data, listLinearModules(layerCount), budget)
  const names = targets.map((target) => target.name)
  const ranks = applyPatterns('rank_pattern', parsed.data, { names, budget })
  const alphas = applyPatterns('alpha_pattern', parsed.data, { names, budget })
  return new Map(
    targets.map((target) => {
      const rank = ranks.get(target.name) ?? parsed.data.r
      const alpha = alphas.get(target.name) ?? parsed.data.lora_alpha
      const scale = alpha / (parsed.data.use_rslora ? Math.sqrt(rank) : rank)
      if (!Number.isFinite(Math.fround(scale))) {
        const field = alphas.has(target.name) ? 'alpha_pattern' : 'lora_alpha'
        throw rejected(field, `makes a scale of ${scale}, which no 32-bit float holds`)
      }
      return [target.key, { ...target, rank, scale }]
    }),
  )
}

function refuseUnknownSwitches(config: PeftConfig): void {
  for (const [field, value] of Object.entries(config)) {
    if (field.startsWith('use_') && value && !KNOWN_SWITCHES.has(field)) {
      throw rejected(field, 'is not supported')
    }
  }
}

function pickTargets(
  config: PeftConfig,
  modules: readonly LinearModule[],
  budget: MatchBudget,
): readonly LinearModule[] {
  const targeted = matchTargets(config.target_modules, modules, budget)
  const excluded = matchExcluded(config.exclude_modules, modules, budget)
  const inLayers = matchLayers(config, modules, budget)
  const picked = modules.filter(
    ({ name }) => targeted.has(name) && !excluded.has(name) && inLayers.has(name),
  )
  if (picked.length === 0) {
    throw rejected('target_modules', 'matches none of the linear layers of the base model')
  }
  return picked
}

/** Modules of a causal language model that no adapter may change here. */
const OTHER_MODULES = ['lm_head', 'model.embed_tokens']

function matchTargets(
  target: PeftConfig['target_modules'],
  modules: readonly LinearModule[],
  budget: MatchBudget,
): ReadonlySet<string> {
  const names = modules.map(({ name }) => name)
  if (target === 'all-linear') return new Set(names)
  if (typeof target === 'string') {
    const matched = at('target_modules', () =>
      matchWhole(target, [...names, ...OTHER_MODULES], budget),
    )
    const other = OTHER_MODULES.find((name) => matched.has(name))
    if (other !== undefined) throw rejected('target_modules', `${other} cannot be adapted`)
    return matched
  }
  const unknown = target.find((suffix) => !names.some((name) => matchesSuffix(name, suffix)))
  if (unknown !== undefined) {
    throw rejected('target_modules', `"${unknown}" is none of the model's linear layers`)
  }
  return new Set(names.filter((name) => target.some((suffix) => matchesSuffix(name, suffix))))
}

function matchExcluded(
  excluded: PeftConfig['exclude_modules'],
  modules: readonly LinearModule[],
  budget: MatchBudget,
): ReadonlySet<string> {
  const names = modules.map(({ name }) => name)
  if (typeof excluded === 'string')
    return at('exclude_modules', () => matchWhole(excluded, names, budget))
  return new Set(
    names.filter((name) => excluded?.some((suffix) => matchesSuffix(name, suffix)) ?? false),
  )
}

/** `layers_to_transform` counts only where `target_modules` is a list; an empty list means all layers. */
function matchLayers(
  config: PeftConfig,
  modules: readonly LinearModule[],
  budget: MatchBudget,
): ReadonlySet<string> {
  const names = modules.map(({ name }) => name)
  const asked = [config.layers_to_transform ?? []].flat()
  if (asked.length === 0 || typeof config.target_modules === 'string') return new Set(names)
  const beyond = asked.find((layer) => !modules.some((module) => module.layer === layer))
  if (beyond !== undefined) {
    throw rejected('layers_to_transform', `the base model has no layer ${beyond}`)
  }
  const patterns = [config.layers_pattern ?? []].flat().filter((pattern) => pattern !== '')
  const listed = at('layers_pattern', () =>
    patterns.length === 0
      ? new Set(names)
      : new Set(
          patterns.flatMap((pattern) => [
            ...matchWhole(`.*\\.${pattern}\\.\\d+\\..*`, names, budget),
          ]),
        ),
  )
  return new Set(
    modules
      .filter(({ layer, name }) => asked.includes(layer) && listed.has(name))
      .map(({ name }) => name),
  )
}

/** The first key that matches a name decides, in the order of the config. */
function applyPatterns(
  field: 'rank_pattern' | 'alpha_pattern',
  config: PeftConfig,
  { names, budget }: { readonly names: readonly string[]; readonly budget: MatchBudget },
): ReadonlyMap<string, number> {
  const values = new Map<string, number>()
  for (const [key, value] of Object.entries(config[field] ?? {})) {
    for (const name of at(`${field}.${key}`, () => matchPatternKey(key, names, budget))) {
      if (!values.has(name)) values.set(name, value)
    }
  }
  return values
}

function at<Result>(field: string, match: () => Result): Result {
  try {
    return match()
  } catch (error) {
    if (error instanceof PatternError) throw rejected(field, error.message, error)
    throw error
  }
}

function rejected(param: string, why: string, cause?: unknown): BackendError {
  return new BackendError('adapter_rejected', `The adapter's '${param}': ${why}.`, { param, cause })
}
