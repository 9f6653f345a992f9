/** The Worker's variables in its tests. Nothing listens at the backend's address. */
export const WORKER_TEST_VARS = {
  BACKENDS: JSON.stringify([{ id: 'local', url: 'http://127.0.0.1:9', token: 'backend-token' }]),
  KEY_CHECKSUM_SECRET: 'a checksum secret for tests alone',
  ADMIN_KEY: 'an admin key for tests alone, long',
  RESERVATION_TTL_MS: '60000',
  PAYEES: JSON.stringify({
    platform: '0x1111111111111111111111111111111111111111',
    backend: '0x2222222222222222222222222222222222222222',
    modelOwner: '0x3333333333333333333333333333333333333333',
  }),
}
