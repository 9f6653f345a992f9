type CamelCase<Name> = Name extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : Name

type Settings<Body> = {
  [Name in keyof Body as CamelCase<Name> & string]: Exclude<Body[Name], undefined>
}

/** The fields of a body by the names they have inside, `modelLimits` for `model_limits`; absent ones stay absent. */
export function settingsFromBody<Body extends object>(body: Body): Settings<Body> {
  const fields = Object.entries(body)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => [name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value])
  return Object.fromEntries(fields) as Settings<Body> // as the names are changed
}
