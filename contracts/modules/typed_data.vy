# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title typed_data
@license MIT
@notice Every EIP-712 type of the market and its digests. The escrow is the one domain for all of them, so a statement
        signed for one deployment or one chain means nothing on another.
        Invariant: the type strings here, in `protocol/typed_data.py` and in `docs/protocol.md` are the same bytes
        (golden vectors).
"""


struct OpenLease:
    owner: address
    provider: uint32
    offer_id: uint32
    version: uint32
    token: address
    amount: uint96
    signer: address
    expiry: uint40
    close_delay: uint32
    terms_digest: bytes32
    nonce: uint64
    deadline: uint40


struct Receipt:
    lease_id: bytes32
    seq: uint64
    part: uint32
    final: bool
    cost: uint128
    units_in: uint64
    units_out: uint64
    units_cached: uint64
    request_hash: bytes32
    response_hash: bytes32
    ttft_ms: uint32
    duration_ms: uint32
    ended_at: uint64
    model_fingerprint: bytes32


struct Terms:
    offer_kind: uint8
    token: address
    price_in: uint128
    price_out: uint128
    price_cached: uint128
    unit_scale: uint64
    sla_ttft_ms: uint32
    sla_milli_tokens_per_s: uint64
    sla_credit_bps: uint16
    period: uint32
    doc_hash: bytes32


NAME: constant(String[50]) = "OpenClaw Compute Market"
VERSION: constant(String[20]) = "1"

_DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_OPEN_LEASE_TYPE: constant(bytes32) = keccak256(
    "OpenLease(address owner,uint32 provider,uint32 offerId,uint32 version,address token,uint96 amount,address signer,uint40 expiry,uint32 closeDelay,bytes32 termsDigest,uint64 nonce,uint40 deadline)"
)
_VOUCHER_TYPE: constant(bytes32) = keccak256("Voucher(bytes32 leaseId,uint128 cumulative,bytes32 context)")
_RECEIPT_TYPE: constant(bytes32) = keccak256(
    "Receipt(bytes32 leaseId,uint64 seq,uint32 part,bool final,uint128 cost,uint64 unitsIn,uint64 unitsOut,uint64 unitsCached,bytes32 requestHash,bytes32 responseHash,uint32 ttftMs,uint32 durationMs,uint64 endedAt,bytes32 modelFingerprint)"
)
_ANCHOR_TYPE: constant(bytes32) = keccak256("Anchor(uint32 provider,uint64 count,bytes32 root)")
_NODE_KEY_TYPE: constant(bytes32) = keccak256("NodeKey(address owner)")
_TERMS_TYPE: constant(bytes32) = keccak256(
    "Terms(uint8 offerKind,address token,uint128 priceIn,uint128 priceOut,uint128 priceCached,uint64 unitScale,uint32 slaTtftMs,uint64 slaMilliTokensPerS,uint16 slaCreditBps,uint32 period,bytes32 docHash)"
)


@internal
@view
def _domain_separator(escrow: address) -> bytes32:
    """
    @notice The EIP-712 domain separator, for the live chain id (a fork of the chain is another domain).
    @param escrow The LeaseEscrow, verifying contract of every type.
    """
    return keccak256(abi_encode(_DOMAIN_TYPE, keccak256(NAME), keccak256(VERSION), chain.id, escrow))


@internal
@pure
def _digest(separator: bytes32, struct_hash: bytes32) -> bytes32:
    return keccak256(concat(b"\x19\x01", separator, struct_hash))


@internal
@pure
def _hash_open_lease(request: OpenLease) -> bytes32:
    return keccak256(abi_encode(_OPEN_LEASE_TYPE, request))


@internal
@pure
def _hash_voucher(lease_id: bytes32, cumulative: uint256, context: bytes32) -> bytes32:
    return keccak256(abi_encode(_VOUCHER_TYPE, lease_id, cumulative, context))


@internal
@pure
def _hash_receipt(receipt: Receipt) -> bytes32:
    return keccak256(abi_encode(_RECEIPT_TYPE, receipt))


@internal
@pure
def _hash_anchor(provider: uint32, count: uint64, root: bytes32) -> bytes32:
    return keccak256(abi_encode(_ANCHOR_TYPE, provider, count, root))


@internal
@pure
def _hash_node_key(owner: address) -> bytes32:
    return keccak256(abi_encode(_NODE_KEY_TYPE, owner))


@internal
@pure
def _hash_terms(terms: Terms) -> bytes32:
    """
    @notice The terms digest: hashStruct without a domain, so that one offer text means the same everywhere; the token
            address and the lease id bind it to a chain.
    """
    return keccak256(abi_encode(_TERMS_TYPE, terms))


@internal
@pure
def _lease_id(
    chain_id: uint256,
    escrow: address,
    owner: address,
    nonce: uint64,
    provider: uint32,
    offer_id: uint32,
    version: uint32,
    signer: address,
    terms_digest: bytes32,
) -> bytes32:
    return keccak256(abi_encode(chain_id, escrow, owner, nonce, provider, offer_id, version, signer, terms_digest))
