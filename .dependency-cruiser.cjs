/** The import boundaries of docs/architecture.md, B1 to B10. */
const only = (name, pattern, allowed) => ({
  name,
  severity: 'error',
  from: { pathNot: [...allowed, '^test/', '^bench/'] },
  to: { path: pattern },
})

module.exports = {
  forbidden: [
    {
      name: 'b1-worker-backend',
      severity: 'error',
      from: { path: '^worker/' },
      to: { path: '^gpu-backend/' },
    },
    {
      name: 'b1-backend-worker',
      severity: 'error',
      from: { path: '^gpu-backend/' },
      to: { path: '^worker/' },
    },
    {
      name: 'b1-protocol',
      severity: 'error',
      from: { path: '^protocol/' },
      to: { pathNot: ['^protocol/', '^node_modules/(zod|viem)/'] },
    },
    {
      name: 'b2-nothing-imports-tests-or-scripts',
      severity: 'error',
      from: { path: '^(worker|gpu-backend|protocol)/' },
      to: { path: '^(test|bench|scripts)/' },
    },
    {
      name: 'b3-worker-no-node',
      severity: 'error',
      from: { path: '^worker/' },
      to: { dependencyTypes: ['core'] },
    },
    only('b4-drizzle', '^node_modules/drizzle-orm/', [
      '^worker/ledger/schema\\.ts$',
      '^worker/services\\.ts$',
      '-store\\.ts$',
    ]),
    only('b5-cloudflare-workers', '^cloudflare:workers', [
      '^worker/(index|direct-fetch)\\.ts$',
      '-object\\.ts$',
    ]),
    only('b6-viem', '^node_modules/viem/', ['^worker/proofs/', '^protocol/', '^scripts/']),
    only('b7-hono', '^node_modules/(hono|@hono)/', [
      '^worker/app\\.ts$',
      '^worker/api/',
      '^worker/web/',
      '^worker/access/authenticate\\.ts$',
      '^gpu-backend/api/',
      '^scripts/',
    ]),
    only('b8-onnxruntime', '^node_modules/onnxruntime-node/', [
      '^gpu-backend/compute/session\\.ts$',
    ]),
    {
      name: 'b9-engine-is-pure',
      severity: 'error',
      from: { path: '^gpu-backend/engine/' },
      to: { path: '^gpu-backend/(compute|adapters)/' },
    },
    { name: 'b10-no-cycles', severity: 'error', from: {}, to: { circular: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.base.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
    },
  },
}
