// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

/// @title A public, append-only list of Merkle roots over batches of billed usage.
/// @notice Batch ids are strictly sequential from 1. A root, once anchored, never changes. The
/// leaves are hashed twice (keccak256 of keccak256 of the ABI-encoded record), the pairs of the
/// tree are sorted: proofs are those of OpenZeppelin's StandardMerkleTree.
interface IUsageAnchor {
    /// @notice A batch was anchored. Everything a verifier needs besides the receipt.
    /// @param batchId The batch, from 1 without gaps.
    /// @param root Merkle root over the batch's usage leaves.
    /// @param leafCount How many leaves the batch holds.
    /// @param payloadHash keccak256 of the batch payload, from which anyone rebuilds the root.
    /// @param daCommitment What the data availability layer returned for the payload; empty where
    /// the operator's archive is the payload's only source.
    event BatchAnchored(
        uint64 indexed batchId,
        bytes32 indexed root,
        uint32 leafCount,
        bytes32 payloadHash,
        bytes daCommitment
    );

    /// @notice Ids are sequential: only `expected` can be anchored next.
    error BatchOutOfOrder(uint64 expected, uint64 given);

    /// @notice A batch has at least one leaf, a root and a payload.
    error EmptyBatch();

    /// @notice No batch with this id has been anchored.
    error UnknownBatch(uint64 batchId);

    /// @notice Anchors the next batch. Only for holders of the anchorer role. Sending the same batch
    /// a second time reverts with {BatchOutOfOrder} and changes nothing.
    function anchor(
        uint64 batchId,
        bytes32 root,
        uint32 leafCount,
        bytes32 payloadHash,
        bytes calldata daCommitment
    ) external;

    /// @notice How many batches have been anchored, which is the last batch's id.
    function batchCount() external view returns (uint64);

    /// @notice The batch's root. Reverts with {UnknownBatch} when there is none.
    function rootOf(uint64 batchId) external view returns (bytes32);

    /// @notice Whether `leaf` (hashed twice) is in the batch. Reverts with {UnknownBatch}.
    function verify(uint64 batchId, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool);
}
