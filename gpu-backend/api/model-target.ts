import type { AdapterMerge, MergePlan } from '../../protocol/adapter-merge.ts'
import type { AdapterVersion } from '../adapters/adapter-versions.ts'
import { listPlaces } from '../adapters/owned-name.ts'
import { mergeAttributors } from '../attribution/merge-attributors.ts'
import { BackendError } from '../errors.ts'
import type { Services } from './services.ts'
import { asOwner } from './tenant.ts'

/** The adapter that answers: a registered one, or a merge of several. */
export interface ServedAdapter extends Pick<AdapterVersion, 'digest' | 'owner' | 'attributor'> {
  /** Null for one that is registered. */
  readonly merge: AdapterMerge | null
}

/** What a request names, held for the request until `release`. */
export interface ModelTarget {
  /** Null: the base model. */
  readonly adapter: ServedAdapter | null
  readonly release: () => void
}

/** What a request names, and who asks. */
interface NamedModel {
  readonly model: string
  readonly merge: MergePlan | null
  readonly tenant: string
}

type TargetServices = Pick<Services, 'adapters' | 'model'>

/**
 * The base model by its id, an adapter by its own or as `base:adapter`, or a merge over the base
 * model. What is not in the engine is waited for, until the signal is aborted. Throws
 * `model_not_found`, or why it cannot be loaded.
 */
export async function leaseModel(
  { model, merge, tenant }: NamedModel,
  services: TargetServices,
  signal: AbortSignal,
): Promise<ModelTarget> {
  const { adapters, model: base } = services
  if (merge) return leaseMerge({ model, merge, tenant }, services, signal)
  if (model === base.id) return { adapter: null, release: () => undefined }
  const name = withoutBase(model, base.id)
  const id = findPlace(name, tenant, adapters)
  if (id === null) throw unknownModel(model, 'model')
  const lease = await adapters.lease(id, signal).catch((error: unknown) => {
    throw explainFailure(name, error, signal)
  })
  if (lease) return { adapter: { ...lease.version, merge: null }, release: lease.release }
  const error = adapters.find(id)?.error
  if (error) throw explainFailure(name, error, signal)
  throw unknownModel(model, 'model')
}

async function leaseMerge(
  { model, merge: plan, tenant }: NamedModel & { readonly merge: MergePlan },
  { adapters, model: base }: TargetServices,
  signal: AbortSignal,
): Promise<ModelTarget> {
  if (model !== base.id) {
    if (findPlace(withoutBase(model, base.id), tenant, adapters) === null)
      throw unknownModel(model, 'model')
    const message = `'model': must be '${base.id}' where 'tallygate.adapters' names the adapters`
    throw new BackendError('invalid_request', message, { param: 'model' })
  }
  const members = plan.members.map((member) => ({
    ...member,
    // Of a name that nobody has, the registry says the same.
    id: findPlace(withoutBase(member.id, base.id), tenant, adapters) ?? '',
  }))
  const result = await adapters.leaseMerge({ ...plan, members }, signal).catch((error) => {
    throw signal.aborted ? shuttingDown() : error
  })
  if (result.outcome === 'unknown_member') {
    const id = plan.members[result.index]?.id ?? ''
    throw unknownModel(id, `tallygate.adapters[${result.index}].id`)
  }
  const { digest, merge, members: held, release } = result.lease
  const attributor = mergeAttributors(
    held.map(({ version, weightPpm }) => ({ attributor: version.attributor, weightPpm })),
  )
  return { adapter: { digest, owner: null, attributor, merge }, release }
}

/** Where the adapter stands that a tenant means by a name; null: it may use none of this name. */
function findPlace(
  name: string,
  tenant: string,
  adapters: TargetServices['adapters'],
): string | null {
  const known = listPlaces(asOwner(tenant), name).flatMap((id) => adapters.find(id) ?? [])
  const serving = known.find(({ version, state }) => version !== null && state !== 'unloading')
  return (serving ?? known[0])?.id ?? null
}

function withoutBase(id: string, baseId: string): string {
  return id.startsWith(`${baseId}:`) ? id.slice(baseId.length + 1) : id
}

function unknownModel(id: string, param: string): BackendError {
  return new BackendError('model_not_found', `The model '${id}' does not exist.`, { param })
}

function shuttingDown(): BackendError {
  return new BackendError('overloaded', 'The server is shutting down.', { retryAfterMs: 1000 })
}

/** To the caller of a model, a rejected adapter is one that is not there. */
function explainFailure(id: string, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return shuttingDown()
  if (!(error instanceof BackendError) || error.code !== 'adapter_rejected') return error
  return new BackendError(
    'model_not_found',
    `The adapter '${id}' could not be loaded. ${error.message}`,
    { param: 'model', cause: error },
  )
}
