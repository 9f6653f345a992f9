/** Calls of a backend as a gateway sends them for an account; null: as its operator does. */
export function createTenantCall(backendUrl: string, tenant: string | null) {
  return async (method: string, path: string, body?: object) => {
    const response = await fetch(backendUrl + path, {
      method,
      headers: tenant === null ? {} : { 'x-tallygate-tenant': tenant },
      ...(body && { body: body instanceof FormData ? body : JSON.stringify(body) }),
    })
    // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
    return { status: response.status, body: (await response.json()) as any }
  }
}
