import { integerRange } from './number-range.ts'

const YEAR = '[0-9]{4}'
const LONG_MONTH = '("01" | "03" | "05" | "07" | "08" | "10" | "12")'
const SHORT_MONTH = '("04" | "06" | "09" | "11")'
const DAY_TO_28 = '("0" [1-9] | "1" [0-9] | "2" [0-8])'
/** The 29th of February is left out: which years have it is beyond a grammar. */
const DATE = `${YEAR} "-" (${LONG_MONTH} "-" (${DAY_TO_28} | "29" | "30" | "31") | ${SHORT_MONTH} "-" (${DAY_TO_28} | "29" | "30") | "02-" ${DAY_TO_28})`
const HOUR = '([01] [0-9] | "2" [0-3])'
const SIXTIETH = '[0-5] [0-9]'
const TIME = `${HOUR} ":" ${SIXTIETH} ":" ${SIXTIETH} ("." [0-9]{1,9})? "Z"`
const OCTET = `(${integerRange({ minimum: 0n, maximum: 255n })})`
const LABEL = '[a-z0-9] ([a-z0-9-]{0,20} [a-z0-9])?'

/** JSON Schema's `format`: EBNF of what stands between the quotes; each a part of what the format allows. */
export const STRING_FORMATS: ReadonlyMap<string, string> = new Map([
  ['date', DATE],
  ['time', TIME],
  ['date-time', `${DATE} "T" ${TIME}`],
  ['uuid', 'hex{8} "-" hex{4} "-" [1-8] hex{3} "-" [89ab] hex{3} "-" hex{12}'],
  ['ipv4', `${OCTET} "." ${OCTET} "." ${OCTET} "." ${OCTET}`],
  ['email', `[a-z0-9]+ ([._+-] [a-z0-9]+){0,4} "@" (${LABEL} "."){1,3} [a-z]{2,12}`],
])
