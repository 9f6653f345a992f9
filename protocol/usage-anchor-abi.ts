import { parseAbi } from 'viem'

/** Generated from contracts/UsageAnchor.sol by `npm run contracts`. */
export const usageAnchorAbi = parseAbi([
  'error AccessControlBadConfirmation()',
  'error AccessControlUnauthorizedAccount(address account, bytes32 neededRole)',
  'error BatchOutOfOrder(uint64 expected, uint64 given)',
  'error EmptyBatch()',
  'error UnknownBatch(uint64 batchId)',
  'event BatchAnchored(uint64 indexed batchId, bytes32 indexed root, uint32 leafCount, bytes32 payloadHash, bytes daCommitment)',
  'event RoleAdminChanged(bytes32 indexed role, bytes32 indexed previousAdminRole, bytes32 indexed newAdminRole)',
  'event RoleGranted(bytes32 indexed role, address indexed account, address indexed sender)',
  'event RoleRevoked(bytes32 indexed role, address indexed account, address indexed sender)',
  'function ANCHORER_ROLE() view returns (bytes32)',
  'function DEFAULT_ADMIN_ROLE() view returns (bytes32)',
  'function anchor(uint64 batchId, bytes32 root, uint32 leafCount, bytes32 payloadHash, bytes daCommitment)',
  'function batchCount() view returns (uint64)',
  'function getRoleAdmin(bytes32 role) view returns (bytes32)',
  'function grantRole(bytes32 role, address account)',
  'function hasRole(bytes32 role, address account) view returns (bool)',
  'function renounceRole(bytes32 role, address callerConfirmation)',
  'function revokeRole(bytes32 role, address account)',
  'function rootOf(uint64 batchId) view returns (bytes32 root)',
  'function supportsInterface(bytes4 interfaceId) view returns (bool)',
  'function verify(uint64 batchId, bytes32 leaf, bytes32[] proof) view returns (bool)',
])
