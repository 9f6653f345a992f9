import { hexToBytes, keccak256 } from 'viem'
import type { Digest } from './digest.ts'

/** keccak256 of two nodes of 32 bytes, the smaller one first, as OpenZeppelin's MerkleProof. */
export function hashPair(a: Uint8Array, b: Uint8Array): Uint8Array {
  const pair = new Uint8Array(64)
  const [first, second] = compareNodes(a, b) < 0 ? [a, b] : [b, a]
  pair.set(first, 0)
  pair.set(second, 32)
  return keccak256(pair, 'bytes')
}

/** Negative, zero or positive, as the bytes of `a` stand before, at or after those of `b`. */
export function compareNodes(a: Uint8Array, b: Uint8Array): number {
  for (let index = 0; index < 32; index++) {
    const difference = (a[index] ?? 0) - (b[index] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

/**
 * Whether `leaf` (a hash made by hashing twice) is in the tree of `root`. The proof is the siblings
 * from the leaf up.
 */
export function verifyProof(root: Digest, leaf: Digest, proof: readonly Digest[]): boolean {
  const top = proof.reduce(
    (node, sibling) => hashPair(node, hexToBytes(sibling)),
    hexToBytes(leaf) as Uint8Array,
  )
  return compareNodes(top, hexToBytes(root)) === 0
}
