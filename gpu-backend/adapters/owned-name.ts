/** Whose an adapter or a datanet is; null: the operator's, for everyone to use. */
export type Tenant = string | null

/** What stands for a tenant in names of files. */
export const OWNING_TENANT = /^[A-Za-z0-9_-]{1,100}$/

/** A name's place among those of all tenants: the name itself, or `tenant/name`. */
export function qualifyName(tenant: Tenant, name: string): string {
  return tenant === null ? name : `${tenant}/${name}`
}

/** What {@link qualifyName} put together; neither part has a slash of its own. */
export function splitName(qualified: string): { readonly tenant: Tenant; readonly name: string } {
  const at = qualified.indexOf('/')
  if (at < 0) return { tenant: null, name: qualified }
  return { tenant: qualified.slice(0, at), name: qualified.slice(at + 1) }
}

/** The places where a tenant's use of a name is looked up: its own things hide the operator's. */
export function listPlaces(tenant: Tenant, name: string): readonly string[] {
  if (name.includes('/')) return []
  return tenant === null ? [name] : [qualifyName(tenant, name), name]
}

/** As a file name; `@` is in neither part. */
export function toFileName(qualified: string): string {
  return qualified.replace('/', '@')
}
