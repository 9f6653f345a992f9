import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { compileFunction } from 'node:vm'
import type * as Library from '@mlc-ai/web-xgrammar'
import { CHAR_OF_BYTE } from '../text/byte-level.ts'
import type { GrammarVocabulary } from './grammar-messages.ts'

/** Compiled grammars that are kept for the next request with the same one. */
const MAX_COMPILED_COUNT = 64

/** Follows one answer through its grammar. */
export interface GrammarMatcher {
  /** [⌈V/32⌉] See `AnswerMatcher` of `engine/answer-grammar.ts`. */
  readonly nextMask: () => Promise<Int32Array>
  /** Takes a token that the last mask allows. */
  readonly accept: (tokenId: number) => void
  readonly dispose: () => void
}

/** Compiles a grammar (EBNF, its rule `root`), or finds it compiled; rejects where it cannot. One call at a time. */
type OpenMatcher = (grammar: string) => Promise<GrammarMatcher>

/**
 * XGrammar over one vocabulary. Compiling takes tens of milliseconds for a large vocabulary, the next
 * mask some hundredths of one. What it is given must be well-formed: the library aborts its process
 * image, for every later request, on a grammar that it cannot parse.
 */
export async function createXgrammar(vocabulary: GrammarVocabulary): Promise<OpenMatcher> {
  const library = await loadLibrary()
  const { tokenBytes, vocabSize, stopTokenIds } = vocabulary
  const tokens = tokenBytes.map((bytes) =>
    Array.from(bytes, (byte) => CHAR_OF_BYTE[byte] ?? '').join(''),
  )
  const info = await library.TokenizerInfo.createTokenizerInfo(
    tokens,
    'byte_level',
    false,
    vocabSize,
    [...stopTokenIds],
  )
  const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false)
  const compiled = new Map<string, Library.CompiledGrammar>()

  async function compile(grammar: string): Promise<Library.CompiledGrammar> {
    const found = compiled.get(grammar) ?? (await compiler.compileGrammar(grammar))
    compiled.delete(grammar)
    compiled.set(grammar, found)
    const [oldest] = compiled.keys()
    if (compiled.size > MAX_COMPILED_COUNT && oldest !== undefined) {
      // Matchers that still use it hold the compiled grammar themselves.
      compiled.get(oldest)?.dispose()
      compiled.delete(oldest)
    }
    return found
  }

  return async (grammar): Promise<GrammarMatcher> => {
    const matcher = await library.GrammarMatcher.createGrammarMatcher(await compile(grammar))
    return {
      nextMask: () => matcher.getNextTokenBitmask(),
      accept: (tokenId) => assert(matcher.acceptToken(tokenId), `the grammar allows ${tokenId}`),
      dispose: () => matcher.dispose(),
    }
  }
}

const DYNAMIC_IMPORT = "await import('module')"

/**
 * The package says that it is a module, but its file is a script for `require` (0.1.27), so neither
 * `import` nor `require` can load it. It is evaluated as the CommonJS that it is; its one dynamic
 * import, which a function made from text may not do, becomes a `require`.
 */
async function loadLibrary(): Promise<typeof Library> {
  const require = createRequire(import.meta.url)
  const path = require.resolve('@mlc-ai/web-xgrammar')
  const source = await readFile(path, 'utf8')
  assert(source.includes(DYNAMIC_IMPORT), 'XGrammar loads itself as version 0.1.27 does.')
  const run = compileFunction(
    source.replace(DYNAMIC_IMPORT, "require('module')"),
    ['exports', 'module', 'require', '__filename'],
    { filename: path },
  )
  const module = { exports: {} }
  run(module.exports, module, createRequire(path), path)
  return module.exports as typeof Library // what the file exports, as its own declarations say
}
