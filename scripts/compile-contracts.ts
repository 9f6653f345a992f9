import { readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import solc from 'solc'

const ROOT = join(import.meta.dirname, '..')
const ARTIFACT_PATH = join(ROOT, 'contracts/artifacts/UsageAnchor.json')
const ABI_PATH = join(ROOT, 'protocol/usage-anchor-abi.ts')
const SOURCES = ['contracts/UsageAnchor.sol', 'contracts/IUsageAnchor.sol']

interface AbiParameter {
  readonly name: string
  readonly type: string
  readonly indexed?: boolean
}

interface AbiItem {
  readonly type: 'constructor' | 'error' | 'event' | 'function'
  readonly name?: string
  readonly inputs: readonly AbiParameter[]
  readonly outputs?: readonly AbiParameter[]
  readonly stateMutability?: string
}

interface CompiledContract {
  readonly abi: readonly AbiItem[]
  readonly evm: { readonly bytecode: { readonly object: string } }
}

/** `npm run contracts`: compiles UsageAnchor and writes the files that are made from it. */
if (import.meta.main) {
  for (const [path, text] of compileContracts()) {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, text)
  }
}

/** The text of each generated file, by its path. The same sources always give the same text. */
export function compileContracts(): ReadonlyMap<string, string> {
  const { abi, evm } = compileUsageAnchor()
  const artifact = { abi, bytecode: `0x${evm.bytecode.object}` }
  return new Map([
    [ARTIFACT_PATH, `${JSON.stringify(artifact, null, 2)}\n`],
    [ABI_PATH, formatAbiModule(abi)],
  ])
}

function compileUsageAnchor(): CompiledContract {
  const content = (path: string) => readFileSync(join(ROOT, path), 'utf8')
  const input = {
    language: 'Solidity',
    sources: Object.fromEntries(SOURCES.map((path) => [path, { content: content(path) }])),
    settings: {
      optimizer: { enabled: true, runs: 200 },
      // The newest EVM that every OP Stack chain in use is known to run.
      evmVersion: 'cancun',
      outputSelection: { '*': { UsageAnchor: ['abi', 'evm.bytecode.object'] } },
    },
  }
  const { resolve } = createRequire(import.meta.url)
  const readImport = (path: string) => ({ contents: readFileSync(resolve(path), 'utf8') })
  const output: {
    errors?: { formattedMessage: string }[]
    contracts?: Record<string, { UsageAnchor: CompiledContract }>
  } = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport }))
  if (output.errors !== undefined) {
    throw new Error(output.errors.map((error) => error.formattedMessage).join('\n'))
  }
  const contract = output.contracts?.['contracts/UsageAnchor.sol']?.UsageAnchor
  if (contract === undefined) throw new Error('solc gave no UsageAnchor.')
  return contract
}

function formatAbiModule(abi: readonly AbiItem[]): string {
  const items = abi.filter((item) => item.type !== 'constructor').map(formatAbiItem)
  return `import { parseAbi } from 'viem'

/** Generated from contracts/UsageAnchor.sol by \`npm run contracts\`. */
export const usageAnchorAbi = parseAbi([
${items.map((item) => `  '${item}',`).join('\n')}
])
`
}

/** One item as Solidity would declare it. */
function formatAbiItem(item: AbiItem): string {
  const inputs = item.inputs.map(formatParameter).join(', ')
  const head = `${item.type} ${item.name}(${inputs})`
  if (item.type !== 'function') return head
  const mutability = item.stateMutability === 'nonpayable' ? '' : ` ${item.stateMutability}`
  const outputs = item.outputs?.map(formatParameter).join(', ')
  return `${head}${mutability}${outputs ? ` returns (${outputs})` : ''}`
}

function formatParameter({ type, indexed, name }: AbiParameter): string {
  return [type, indexed ? 'indexed' : '', name].filter((word) => word !== '').join(' ')
}
