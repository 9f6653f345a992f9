// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IUsageAnchor} from "./IUsageAnchor.sol";

/// @title The anchor, with one role that may write. See {IUsageAnchor}.
contract UsageAnchor is IUsageAnchor, AccessControl {
    /// @notice Who may anchor. Granted and revoked by the default admin role.
    bytes32 public constant ANCHORER_ROLE = keccak256("ANCHORER_ROLE");

    /// @inheritdoc IUsageAnchor
    uint64 public batchCount;

    mapping(uint64 batchId => bytes32 root) private _roots;

    constructor(address admin, address anchorer) {
        _grantRole(DEFAULT_ADMIN_ROLE, admin);
        _grantRole(ANCHORER_ROLE, anchorer);
    }

    /// @inheritdoc IUsageAnchor
    function anchor(
        uint64 batchId,
        bytes32 root,
        uint32 leafCount,
        bytes32 payloadHash,
        bytes calldata daCommitment
    ) external onlyRole(ANCHORER_ROLE) {
        uint64 expected = batchCount + 1;
        if (batchId != expected) revert BatchOutOfOrder(expected, batchId);
        if (root == 0 || leafCount == 0 || payloadHash == 0) revert EmptyBatch();

        batchCount = batchId;
        _roots[batchId] = root;
        emit BatchAnchored(batchId, root, leafCount, payloadHash, daCommitment);
    }

    /// @inheritdoc IUsageAnchor
    function rootOf(uint64 batchId) public view returns (bytes32 root) {
        root = _roots[batchId];
        if (root == 0) revert UnknownBatch(batchId);
    }

    /// @inheritdoc IUsageAnchor
    function verify(uint64 batchId, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        return MerkleProof.verifyCalldata(proof, rootOf(batchId), leaf);
    }
}
