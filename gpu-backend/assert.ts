/** Throws when an impossible state was reached: it ends the request that met it, not the process. */
export function assert(condition: boolean, sentence: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${sentence}`)
}
