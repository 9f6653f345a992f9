import { createContext, Script } from 'node:vm'
import { LINEAR_NAMES, type LinearName } from '../model/model-source.ts'
import type { LoraModuleKey } from './lora-weights.ts'

/** One linear layer of the base model, by its place and by the name that PEFT matches. */
export interface LinearModule {
  readonly key: LoraModuleKey
  readonly layer: number
  readonly linear: LinearName
  /** As in transformers' causal language model: `model.layers.3.self_attn.q_proj`. */
  readonly name: string
}

/** A regular expression of an adapter's config that cannot be used; the message says why. */
export class PatternError extends Error {
  constructor(message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options)
    this.name = 'PatternError'
  }
}

const PARENTS: Record<LinearName, string> = {
  q: 'self_attn',
  k: 'self_attn',
  v: 'self_attn',
  o: 'self_attn',
  gate: 'mlp',
  up: 'mlp',
  down: 'mlp',
}

/** Names are 40 characters, a match takes microseconds: what takes this long backtracks without end. */
const MATCH_TIMEOUT_MS = 1000

/** Of all patterns of one config together. */
export interface MatchBudget {
  leftMs: number
}

export function createMatchBudget(): MatchBudget {
  return { leftMs: MATCH_TIMEOUT_MS }
}

/** Where matching can be stopped by the clock. Nothing but regular expressions runs in it. */
const CONTEXT = createContext()

const MAX_PATTERN_LENGTH = 2000

/** Every linear layer that an adapter can change, in the canonical order: by layer, then as LINEAR_NAMES. */
export function listLinearModules(layerCount: number): readonly LinearModule[] {
  return Array.from({ length: layerCount }, (_, layer) =>
    LINEAR_NAMES.map((linear) => ({
      key: `${layer}.${linear}` as const,
      layer,
      linear,
      name: `model.layers.${layer}.${PARENTS[linear]}.${linear}_proj`,
    })),
  ).flat()
}

/** PEFT's rule for a name in a list: the whole name, or its end after a dot. */
export function matchesSuffix(name: string, suffix: string): boolean {
  return name === suffix || name.endsWith(`.${suffix}`)
}

/** The names that a regular expression matches from end to end (Python's `re.fullmatch`). Throws {@link PatternError}. */
export function matchWhole(
  pattern: string,
  names: readonly string[],
  budget: MatchBudget,
): ReadonlySet<string> {
  return runPattern(`^(?:${pattern})$`, pattern, { names, budget })
}

/**
 * The names that a key of `rank_pattern` or `alpha_pattern` means: PEFT's
 * `re.match(rf"(.*\.)?({key})$", name)`, under which a plain name is its own pattern. Throws {@link PatternError}.
 */
export function matchPatternKey(
  key: string,
  names: readonly string[],
  budget: MatchBudget,
): ReadonlySet<string> {
  return runPattern(`^(?:.*\\.)?(?:${key})$`, key, { names, budget })
}

/** Matches with a time limit: a config from a stranger must not stop the server. */
function runPattern(
  source: string,
  pattern: string,
  { names, budget }: { readonly names: readonly string[]; readonly budget: MatchBudget },
): ReadonlySet<string> {
  if (pattern.length > MAX_PATTERN_LENGTH) {
    throw new PatternError(`has more than ${MAX_PATTERN_LENGTH} characters`)
  }
  if (/\\[AZ]|\(\?P|\(\?[aiLmsux]+\)/.test(pattern)) {
    throw new PatternError(`"${pattern}" uses regular-expression syntax that only Python knows`)
  }
  try {
    new RegExp(source)
  } catch (cause) {
    throw new PatternError(`"${pattern}" is not a regular expression`, { cause })
  }
  const script = new Script(
    `((re, names) => names.map((name) => re.test(name)))(new RegExp(${JSON.stringify(source)}), ${JSON.stringify(names)})`,
  )
  let matches: readonly boolean[]
  const startMs = performance.now()
  try {
    matches = script.runInContext(CONTEXT, { timeout: Math.max(1, Math.ceil(budget.leftMs)) })
  } catch (cause) {
    throw new PatternError(`"${pattern}" takes too long to match`, { cause })
  }
  budget.leftMs -= performance.now() - startMs
  return new Set(names.filter((_, index) => matches[index]))
}
