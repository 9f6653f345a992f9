import { CHAR_OF_BYTE } from '../../gpu-backend/text/byte-level.ts'

/** Ids 0, 1 and 2, as in SmolLM2. */
export const TINY_SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'] as const

/** In the order they are applied; `Ġ` is the blank. */
export const TINY_MERGES = [
  'Ġ t',
  'h e',
  'Ġ a',
  'i n',
  'r e',
  'o n',
  'Ġt he',
  'e r',
  'Ġ s',
  'a t',
  'Ġ w',
  'Ġ o',
  'e n',
  'Ġ c',
  'i t',
  'i s',
  'a n',
  'o r',
  'e s',
  'Ġ b',
  'e d',
  'Ġ f',
  'in g',
  'Ġ p',
  'o u',
  'Ġa n',
  'a l',
  'a r',
  'Ġt o',
  'Ġ m',
  'Ġo f',
  'Ġ in',
  'Ġ d',
  'Ġ h',
  'Ġan d',
  'i c',
  'a s',
  'l e',
  'Ġt h',
  'Ċ Ċ',
  'as s',
  'ass is',
  'assis t',
  'assist an',
  'assistan t',
] as const

/** Every token by id: specials, the 256 bytes, the merged ones. */
export const TINY_TOKENS: readonly string[] = [
  ...TINY_SPECIALS,
  ...CHAR_OF_BYTE,
  ...new Set(TINY_MERGES.map((merge) => merge.replaceAll(' ', ''))),
]

/** ChatML, with SmolLM2's habit of writing a system prompt where the messages begin with none. */
export const TINY_CHAT_TEMPLATE =
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a tiny model.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
