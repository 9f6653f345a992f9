/** How a model writes calls: `begin`, then calls, each from `open` to `close`, with `between` between them, then `end`. */
export interface ToolForm {
  readonly begin: string
  readonly open: string
  readonly argumentsKey: 'arguments' | 'parameters'
  readonly close: string
  readonly between: string
  readonly end: string
  /** What no free text has: a call begins. Null: only an answer that is nothing but a call is one. */
  readonly trigger: string | null
  /** A control token that may stand before calls; it is text of the answer, not silent. */
  readonly marker: string | null
  /** What its chat templates, and no others, have. */
  readonly isTaughtBy: (chatTemplate: string) => boolean
  readonly maxCallCount: number
  /** Characters of the ids of calls where the templates insist on letters and digits of one length. */
  readonly idLength: number | null
}

/** What stands around each call in an answer of Hermes and Qwen. */
export const TOOL_CALL_OPEN = '<tool_call>'
export const TOOL_CALL_CLOSE = '</tool_call>'

const knowsTools = (template: string) => /\btools\b/.test(template)

/** Hermes and Qwen; taught by us to a model whose template knows no tools. */
export const HERMES_FORM: ToolForm = {
  begin: '',
  open: `${TOOL_CALL_OPEN}\n`,
  argumentsKey: 'arguments',
  close: `\n${TOOL_CALL_CLOSE}`,
  between: '\n',
  end: '',
  trigger: TOOL_CALL_OPEN,
  marker: null,
  isTaughtBy: (template) => knowsTools(template) && template.includes(TOOL_CALL_OPEN),
  maxCallCount: Number.POSITIVE_INFINITY,
  idLength: null,
}

/** Up to the tokenizers v7; later ones write `[TOOL_CALLS]name[ARGS]{}`. */
export const MISTRAL_FORM: ToolForm = {
  begin: '[TOOL_CALLS] [',
  open: '',
  argumentsKey: 'arguments',
  close: '',
  between: ', ',
  end: ']',
  trigger: '[TOOL_CALLS]',
  marker: '[TOOL_CALLS]',
  isTaughtBy: (template) =>
    knowsTools(template) && template.includes('[TOOL_CALLS]') && !template.includes('[ARGS]'),
  maxCallCount: Number.POSITIVE_INFINITY,
  idLength: 9,
}

/** Llama 3.1 to 3.3, whose templates refuse a second call. */
export const LLAMA_FORM: ToolForm = {
  begin: '',
  open: '',
  argumentsKey: 'parameters',
  close: '',
  between: '',
  end: '',
  trigger: null,
  marker: '<|python_tag|>',
  isTaughtBy: (template) => template.includes('{"name": function name, "parameters":'),
  maxCallCount: 1,
  idLength: null,
}

const FORMS: readonly ToolForm[] = [HERMES_FORM, MISTRAL_FORM, LLAMA_FORM]

const MARKERS = new Set(FORMS.map(({ marker }) => marker))

/** The form that a chat template teaches; null: none that is known. */
export function findToolForm(chatTemplate: string): ToolForm | null {
  return FORMS.find(({ isTaughtBy }) => isTaughtBy(chatTemplate)) ?? null
}

/** Whether a control token is a part of what an answer says. */
export function isToolMarker(spelling: string): boolean {
  return MARKERS.has(spelling)
}
