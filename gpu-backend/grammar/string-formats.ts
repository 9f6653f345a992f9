const LEAP_YEAR = '(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)'
const DATE = `(?:\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))|${LEAP_YEAR}-02-29)`
const TIME = '(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?Z'
const OCTET = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)'
const LABEL = '[a-z0-9]{1,8}(?:-[a-z0-9]{1,8})?'
const HEX4 = '[0-9a-fA-F]{1,4}'

/** JSON Schema's `format` as patterns; each matches a part of what the format allows. */
export const STRING_FORMATS: ReadonlyMap<string, string> = new Map([
  ['date', `^${DATE}$`],
  ['time', `^${TIME}$`],
  ['date-time', `^${DATE}T${TIME}$`],
  [
    'duration',
    '^P(?:\\d{1,4}W|\\d{1,4}Y(?:\\d{1,2}M)?(?:\\d{1,3}D)?|\\d{1,4}M(?:\\d{1,3}D)?|\\d{1,4}D|(?:\\d{1,3}D)?T(?:\\d{1,4}H(?:\\d{1,2}M(?:\\d{1,2}S)?)?|\\d{1,4}M(?:\\d{1,2}S)?|\\d{1,5}S))$',
  ],
  [
    'uuid',
    '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$',
  ],
  ['hostname', `^${LABEL}(?:\\.${LABEL}){0,3}$`],
  ['ipv4', `^${OCTET}(?:\\.${OCTET}){3}$`],
  [
    'ipv6',
    `^(?:(?:${HEX4}:){7}${HEX4}|::(?:${HEX4}:){0,5}${HEX4}|${HEX4}::(?:${HEX4}:){0,4}${HEX4})$`,
  ],
  ['email', `^[A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+){0,3}@(?:${LABEL}\\.){1,2}[a-z]{2,8}$`],
])
