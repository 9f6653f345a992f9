import { SimpleMerkleTree, StandardMerkleTree } from '@openzeppelin/merkle-tree'
import fc from 'fast-check'
import { bytesToHex, concat, encodeAbiParameters, type Hex, keccak256 } from 'viem'
import { describe, expect, it } from 'vitest'
import { verifyProof } from '../../protocol/merkle-proof.ts'
import { buildMerkleTree, proveLeaf } from '../../protocol/merkle-tree.ts'
import { digests } from '../support/batch-entries.ts'

const leafLists = fc.uniqueArray(digests, { minLength: 1, maxLength: 40 })

describe('buildMerkleTree', () => {
  it("has the root and the proofs of OpenZeppelin's tree, whatever the leaves", () => {
    fc.assert(
      fc.property(leafLists, (leaves) => {
        const ours = buildMerkleTree(leaves)
        const theirs = SimpleMerkleTree.of(leaves)
        expect(ours.root).toBe(theirs.root)
        for (const [index, leaf] of leaves.entries()) {
          const proof = proveLeaf(ours, index)
          expect(proof).toEqual(theirs.getProof(leaf))
          expect(verifyProof(ours.root, leaf, proof)).toBe(true)
        }
      }),
      { seed: 1, numRuns: 50 },
    )
  })

  it('makes the root of a StandardMerkleTree, whose leaves are hashed twice', () => {
    const values = [['a'], ['b'], ['c']]
    const leaves = values.map((value) =>
      keccak256(keccak256(encodeAbiParameters([{ type: 'string' }], value as [string]))),
    )
    expect(buildMerkleTree(leaves).root).toBe(StandardMerkleTree.of(values, ['string']).root)
  })

  it('refuses to build over nothing', () => {
    expect(() => buildMerkleTree([])).toThrow('at least one leaf')
  })
})

describe('verifyProof', () => {
  it('fails for a leaf, a root or a sibling that is not of the tree', () => {
    fc.assert(
      fc.property(leafLists, digests, fc.nat(), (leaves, stranger, at) => {
        fc.pre(!leaves.includes(stranger))
        const tree = buildMerkleTree(leaves)
        const index = at % leaves.length
        const proof = proveLeaf(tree, index)
        expect(verifyProof(tree.root, stranger, proof)).toBe(false)
        expect(verifyProof(stranger, leaves[index]!, proof)).toBe(false)
        expect(verifyProof(tree.root, leaves[index]!, [...proof, stranger])).toBe(false)
        if (proof.length === 0) return
        expect(
          verifyProof(tree.root, leaves[index]!, proof.with(at % proof.length, stranger)),
        ).toBe(false)
      }),
      { seed: 3, numRuns: 50 },
    )
  })

  it('cannot be given an inner node as a leaf: a record is hashed twice, an inner node once', () => {
    const hashTwice = (data: Hex) => keccak256(keccak256(data))
    const records = [0n, 1n, 2n, 3n].map((n) => encodeAbiParameters([{ type: 'uint256' }], [n]))
    const tree = buildMerkleTree(records.map(hashTwice))
    const node = (place: number) => bytesToHex(tree.nodes.subarray(place * 32, place * 32 + 32))
    const children = concat([node(3), node(4)].sort())
    expect(keccak256(children)).toBe(node(1))
    expect(verifyProof(tree.root, keccak256(children), [node(2)])).toBe(true)
    expect(verifyProof(tree.root, hashTwice(children), [node(2)])).toBe(false)
  })
})
