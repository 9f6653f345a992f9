import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Part of `npm run check`: a path or npm script that README, AGENTS.md or docs/ quotes must exist. */

const ROOT = join(import.meta.dirname, '..')
const PATH = /`([a-z0-9._-]+\/[\w./-]*|[\w-]+\.(?:ts|toml|json|md|sol))`/gi
const SCRIPT = /npm run ([a-z:]+)/g

const documents = [
  'README.md',
  'AGENTS.md',
  ...(await readdir(join(ROOT, 'docs'))).filter((n) => n.endsWith('.md')).map((n) => `docs/${n}`),
]
const scripts = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')).scripts
const roots = new Set((await readdir(ROOT, { withFileTypes: true })).map((entry) => entry.name))

const faults: string[] = []
for (const document of documents) {
  const text = await readFile(join(ROOT, document), 'utf8')
  for (const [, path] of text.matchAll(PATH)) {
    if (path === undefined || !isClaim(path)) continue
    const places = [join(ROOT, path), join(ROOT, 'worker', path), join(ROOT, 'gpu-backend', path)]
    if (!places.some(existsSync)) faults.push(`${document}: \`${path}\` does not exist`)
  }
  for (const [, name] of text.matchAll(SCRIPT)) {
    if (name !== undefined && !(name in scripts)) faults.push(`${document}: no script "${name}"`)
  }
}
for (const fault of faults) console.error(fault)
if (faults.length > 0) process.exit(1)

/** Whether a quoted text claims to be a file of ours: it begins with one of our folders, or is a source file's name with a folder. */
function isClaim(path: string): boolean {
  const [first = ''] = path.split('/')
  if (roots.has(first)) return true
  return path.includes('/') && /\.(ts|tsx|sol|md)$/.test(path)
}
