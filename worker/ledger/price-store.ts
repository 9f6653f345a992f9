import { and, desc, lt, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { LAST_CONFIG_PRICE_VERSION, type PriceList, type PriceVersion } from './price-list.ts'
import { prices } from './schema.ts'

/** Publishes a price as the next version. */
export async function insertPrice(
  database: D1Database,
  price: Omit<PriceVersion, 'version'>,
): Promise<PriceVersion> {
  const version = sql<number>`(SELECT coalesce(max(version), ${LAST_CONFIG_PRICE_VERSION}) + 1 FROM ${prices})`
  return drizzle(database)
    .insert(prices)
    .values({ ...price, version })
    .returning()
    .get()
}

/** Published prices, the newest version first. */
export async function listPrices(
  database: D1Database,
  { limit, beforeVersion }: { readonly limit: number; readonly beforeVersion?: number | undefined },
): Promise<readonly PriceVersion[]> {
  return drizzle(database)
    .select()
    .from(prices)
    .where(and(beforeVersion === undefined ? undefined : lt(prices.version, beforeVersion)))
    .orderBy(desc(prices.version))
    .limit(limit)
}

/** Every version that is in force at some time from `fromMs` on. */
export async function readPriceList(database: D1Database, fromMs: number): Promise<PriceList> {
  const versions = await drizzle(database)
    .select()
    .from(prices)
    .where(sql`NOT EXISTS (
    SELECT 1 FROM prices AS later
    WHERE later.model IS ${prices.model} AND later.backend_id IS ${prices.backendId}
      AND later.effective_at_ms <= ${fromMs}
      AND (later.effective_at_ms, later.version) > (${prices.effectiveAtMs}, ${prices.version}))`)
  return Map.groupBy<string | null, PriceVersion>(versions, ({ model }) => model)
}
