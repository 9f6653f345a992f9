import { bytesToHex, hexToBytes } from 'viem'
import type { Digest } from './digest.ts'
import { compareNodes, hashPair } from './merkle-proof.ts'

/**
 * A Merkle tree with the layout of OpenZeppelin's StandardMerkleTree: the leaves sorted by hash, in
 * reverse, at the end of one array; the children of node i are 2i + 1 and 2i + 2.
 */
export interface MerkleTree {
  /** [2·leaves − 1, 32] bytes; the root first. */
  readonly nodes: Uint8Array
  /** [leaves] the node of each leaf, in the order in which the leaves were given. */
  readonly nodeOfLeaf: Uint32Array
  readonly root: Digest
}

/** Builds the tree over at least one leaf hash; throws a RangeError over none. */
export function buildMerkleTree(leaves: readonly Digest[]): MerkleTree {
  if (leaves.length === 0) throw new RangeError('A Merkle tree needs at least one leaf.')
  const nodeCount = 2 * leaves.length - 1
  const nodes = new Uint8Array(nodeCount * 32)
  const node = (index: number) => nodes.subarray(index * 32, index * 32 + 32)
  const hashes = leaves.map((leaf) => hexToBytes(leaf))
  const order = Uint32Array.from(hashes.keys()).sort((a, b) =>
    // Both are keys of `hashes`.
    compareNodes(hashes[a] as Uint8Array, hashes[b] as Uint8Array),
  )
  const nodeOfLeaf = new Uint32Array(leaves.length)
  for (const [rank, leaf] of order.entries()) {
    const place = nodeCount - 1 - rank
    nodeOfLeaf[leaf] = place
    node(place).set(hashes[leaf] as Uint8Array)
  }
  for (let index = leaves.length - 2; index >= 0; index--) {
    node(index).set(hashPair(node(2 * index + 1), node(2 * index + 2)))
  }
  return { nodes, nodeOfLeaf, root: bytesToHex(node(0)) }
}

/** The siblings from the given leaf (by its place in `buildMerkleTree`'s argument) up to the root. */
export function proveLeaf(tree: MerkleTree, leafIndex: number): readonly Digest[] {
  let place = tree.nodeOfLeaf[leafIndex]
  if (place === undefined) throw new RangeError(`The tree has no leaf ${leafIndex}.`)
  const proof: Digest[] = []
  while (place > 0) {
    const sibling = place % 2 === 0 ? place - 1 : place + 1
    proof.push(bytesToHex(tree.nodes.subarray(sibling * 32, sibling * 32 + 32)))
    place = Math.floor((place - 1) / 2)
  }
  return proof
}
