# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title leases
@license MIT
@notice A lease reserves part of a consumer's account for one provider, under one offer version, one terms digest and
        one session key, until `closesAt`.
        Invariants: a lease id is never used twice; a reservation leaves only by settlement to its provider or by
        `release` to its owner; `closesAt` never rises.
"""
from ..interfaces import IParams
from ..interfaces import IRegistry
from ..interfaces import IStaking
from . import escrow
from . import signature as signatures
from . import typed_data

uses: escrow


event LeaseOpened:
    lease_id: indexed(bytes32)
    owner: indexed(address)
    provider: indexed(uint256)
    offer_id: uint256
    version: uint256
    token: address
    amount: uint256
    signer: address
    expiry: uint256
    close_delay: uint256
    fee_bps: uint256
    terms_digest: bytes32
    nonce: uint256


event LeaseToppedUp:
    lease_id: indexed(bytes32)
    caller: indexed(address)
    amount: uint256


event LeaseClosed:
    lease_id: indexed(bytes32)
    caller: indexed(address)
    closes_at: uint256
    revoked: bool


event LeaseReleased:
    lease_id: indexed(bytes32)
    owner: indexed(address)
    amount: uint256


event LeasesEnded:
    provider: indexed(uint256)
    ends_at: uint256


event NonceBumped:
    owner: indexed(address)
    nonce: uint256


struct Lease:
    owner: address
    provider: uint256
    offer_id: uint256
    version: uint256
    token: address
    signer: address
    deposit: uint256
    settled: uint256
    expiry: uint256
    close_delay: uint256
    closes_at: uint256  # effective: already lowered by the provider's deregistration
    fee_bps: uint256
    is_closing: bool
    is_revoked: bool
    is_released: bool  # then `deposit` equals `settled`: the rest has gone back to the owner


MIN_CLOSE_DELAY: constant(uint256) = 3_600
MAX_CLOSE_DELAY: constant(uint256) = 6 * 86_400

_ERC1271_MAGIC: constant(bytes32) = 0x1626ba7e00000000000000000000000000000000000000000000000000000000
# what a wallet may spend on checking a signature; a passkey in pure EVM code needs about 350k
_ERC1271_GAS: constant(uint256) = 500_000

_U96: constant(uint256) = 2**96 - 1
_U40: constant(uint256) = 2**40 - 1
_U32: constant(uint256) = 2**32 - 1
_U16: constant(uint256) = 2**16 - 1
_U8: constant(uint256) = 2**8 - 1
_U160: constant(uint256) = 2**160 - 1
_CLOSING: constant(uint256) = 1 << 232
_REVOKED: constant(uint256) = 1 << 233
_RELEASED: constant(uint256) = 1 << 234

registry: public(immutable(IRegistry))
staking: public(immutable(IStaking))

# deposit 96 | settled 96 | closesAt 40 | flags: all that settlement writes
_funds: HashMap[bytes32, uint256]
# signer 160 | provider 32 | token id 8 | fee bps 16 | expiry 40: all that settlement only reads; zero means no such lease
_payment: HashMap[bytes32, uint256]
# owner 160 | close delay 32 | offer id 32 | version 32: cold while settling
_origin: HashMap[bytes32, uint256]
# one sequence for leases opened directly and by signature; bumping it cancels what was signed
nonces: public(HashMap[address, uint256])
# leases not yet released, per (provider, offer): what an offer's max_active limits
active_leases: public(HashMap[uint256, HashMap[uint256, uint256]])
# when a deregistered provider's leases all end at the latest, in seconds; 0 while it is registered
leases_end: public(HashMap[uint256, uint256])


@deploy
def __init__(registry_: IRegistry, staking_: IStaking):
    registry = registry_
    staking = staking_


@external
def open_lease(request: typed_data.OpenLease, signature: Bytes[1024]) -> bytes32:
    """
    @notice Reserves `request.amount` of the owner's account for one provider. The owner calls, or anyone with the
            owner's EIP-712 signature (ECDSA, or ERC-1271 by a bounded static call).
    @param request The lease, naming the offer's version and terms: an offer changed meanwhile is refused.
    @param signature The owner's 65-byte or ERC-1271 signature; not read when the owner calls.
    @return lease_id The new lease's id.
    """
    assert block.timestamp <= convert(request.deadline, uint256), "leases: deadline passed"
    if msg.sender != request.owner:
        self._check_signature(request, signature)
    nonce: uint256 = self.nonces[request.owner]
    assert convert(request.nonce, uint256) == nonce, "leases: wrong nonce"
    self.nonces[request.owner] = nonce + 1

    provider: uint256 = convert(request.provider, uint256)
    offer_id: uint256 = convert(request.offer_id, uint256)
    version: uint256 = convert(request.version, uint256)
    amount: uint256 = convert(request.amount, uint256)
    expiry: uint256 = convert(request.expiry, uint256)
    close_delay: uint256 = convert(request.close_delay, uint256)
    fee_bps: uint256 = self._check_offer(request)
    assert request.signer != empty(address), "leases: no signer"

    lease_id: bytes32 = typed_data._lease_id(
        chain.id,
        self,
        request.owner,
        request.nonce,
        request.provider,
        request.offer_id,
        request.version,
        request.signer,
        request.terms_digest,
    )
    escrow._debit(request.owner, request.token, amount)
    self._funds[lease_id] = amount | ((expiry + close_delay) << 192)
    self._payment[lease_id] = (
        convert(request.signer, uint256)
        | (provider << 160)
        | (escrow.token_ids[request.token] << 192)
        | (fee_bps << 200)
        | (expiry << 216)
    )
    self._origin[lease_id] = convert(request.owner, uint256) | (close_delay << 160) | (offer_id << 192) | (version << 224)
    log LeaseOpened(
        lease_id=lease_id,
        owner=request.owner,
        provider=provider,
        offer_id=offer_id,
        version=version,
        token=request.token,
        amount=amount,
        signer=request.signer,
        expiry=expiry,
        close_delay=close_delay,
        fee_bps=fee_bps,
        terms_digest=request.terms_digest,
        nonce=nonce,
    )
    return lease_id


@external
def bump_nonce():
    """
    @notice Cancels every lease request the caller has signed and that is not open yet.
    """
    nonce: uint256 = self.nonces[msg.sender] + 1
    self.nonces[msg.sender] = nonce
    log NonceBumped(owner=msg.sender, nonce=nonce)


@external
def top_up(lease_id: bytes32, amount: uint256):
    """
    @notice Adds to a lease's deposit from the caller's account, before a close was called.
    @param lease_id The lease.
    @param amount Token base units.
    """
    payment: uint256 = self._check_lease(lease_id)
    funds: uint256 = self._funds[lease_id]
    assert amount > 0, "leases: nothing to add"
    assert funds & (_CLOSING | _REVOKED | _RELEASED) == 0, "leases: closing"
    assert block.timestamp < self._closes_at(funds, (payment >> 160) & _U32), "leases: closed"
    assert amount <= _U96 - (funds & _U96), "leases: deposit too large"
    escrow._debit(msg.sender, escrow.tokens[(payment >> 192) & _U8], amount)
    self._funds[lease_id] = funds + amount
    log LeaseToppedUp(lease_id=lease_id, caller=msg.sender, amount=amount)


@external
def close(lease_id: bytes32):
    """
    @notice Ends a lease: for its owner after the close delay, so that signed vouchers can still be settled; for its
            provider at once.
    @param lease_id The lease.
    """
    self._close(lease_id, False)


@external
def revoke(lease_id: bytes32):
    """
    @notice Closes a lease and tells its provider that the session key may no longer authorise new requests. Vouchers
            already signed stay payable until `closesAt`.
    @param lease_id The lease, of the caller.
    """
    self._close(lease_id, True)


@external
def release(lease_id: bytes32):
    """
    @notice Returns what was not settled to the owner's account, once the lease is closed. Anyone may call.
    @param lease_id The lease.
    """
    payment: uint256 = self._check_lease(lease_id)
    funds: uint256 = self._funds[lease_id]
    origin: uint256 = self._origin[lease_id]
    provider: uint256 = (payment >> 160) & _U32
    assert funds & _RELEASED == 0, "leases: released"
    assert block.timestamp >= self._closes_at(funds, provider), "leases: not closed"
    settled: uint256 = (funds >> 96) & _U96
    rest: uint256 = (funds & _U96) - settled
    owner: address = convert(origin & _U160, address)
    self._funds[lease_id] = (funds - rest) | _RELEASED
    self.active_leases[provider][(origin >> 192) & _U32] -= 1
    escrow.accounts[owner][escrow.tokens[(payment >> 192) & _U8]] += rest
    log LeaseReleased(lease_id=lease_id, owner=owner, amount=rest)


@external
def end_leases(provider: uint32):
    """
    @notice Called by the Registry when a provider deregisters: all its leases end within the longest close delay.
    @param provider The provider's id.
    """
    assert msg.sender == registry.address, "leases: not the registry"
    provider_id: uint256 = convert(provider, uint256)
    if self.leases_end[provider_id] == 0:
        ends_at: uint256 = block.timestamp + MAX_CLOSE_DELAY
        self.leases_end[provider_id] = ends_at
        log LeasesEnded(provider=provider_id, ends_at=ends_at)


@external
@view
def lease(lease_id: bytes32) -> Lease:
    """
    @notice A lease, unpacked.
    @param lease_id The lease.
    """
    payment: uint256 = self._check_lease(lease_id)
    funds: uint256 = self._funds[lease_id]
    origin: uint256 = self._origin[lease_id]
    provider: uint256 = (payment >> 160) & _U32
    return Lease(
        owner=convert(origin & _U160, address),
        provider=provider,
        offer_id=(origin >> 192) & _U32,
        version=origin >> 224,
        token=escrow.tokens[(payment >> 192) & _U8],
        signer=convert(payment & _U160, address),
        deposit=funds & _U96,
        settled=(funds >> 96) & _U96,
        expiry=payment >> 216,
        close_delay=(origin >> 160) & _U32,
        closes_at=self._closes_at(funds, provider),
        fee_bps=(payment >> 200) & _U16,
        is_closing=funds & _CLOSING != 0,
        is_revoked=funds & _REVOKED != 0,
        is_released=funds & _RELEASED != 0,
    )


@internal
@view
def _check_lease(lease_id: bytes32) -> uint256:
    payment: uint256 = self._payment[lease_id]
    assert payment != 0, "leases: no such lease"
    return payment


@internal
@view
def _check_signature(request: typed_data.OpenLease, signature: Bytes[1024]):
    digest: bytes32 = typed_data._digest(typed_data._domain_separator(self), typed_data._hash_open_lease(request))
    r: bytes32 = empty(bytes32)
    vs: bytes32 = empty(bytes32)
    r, vs = signatures._compact(signature)
    if request.owner != empty(address) and signatures._recover(digest, r, vs) == request.owner:
        return
    assert request.owner.is_contract, "leases: bad signature"
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(
        request.owner,
        abi_encode(digest, signature, method_id=method_id("isValidSignature(bytes32,bytes)")),
        max_outsize=32,
        gas=_ERC1271_GAS,
        is_static_call=True,
        revert_on_failure=False,
    )
    assert success and len(answer) == 32 and convert(answer, bytes32) == _ERC1271_MAGIC, "leases: bad signature"


@internal
def _check_offer(request: typed_data.OpenLease) -> uint256:
    """
    @return The platform fee to freeze into the lease, in basis points.
    """
    fee_bps: uint256 = 0
    min_stake: uint256 = 0
    is_listed: bool = False
    fee_bps, min_stake, is_listed = staticcall escrow.params.open_terms(request.token)
    assert is_listed, "leases: token not listed"

    offer: IRegistry.LeaseOffer = staticcall registry.lease_offer(request.provider, request.offer_id)
    assert offer.is_registered, "leases: provider not registered"
    assert offer.is_open, "leases: offer not open"
    assert offer.version == request.version, "leases: offer changed"
    assert offer.terms_digest == request.terms_digest, "leases: terms differ"
    assert offer.token == request.token, "leases: wrong token"
    assert staticcall staking.active_stake(offer.owner) >= min_stake, "leases: provider stake too low"

    assert request.amount > 0 and request.amount >= offer.min_deposit, "leases: deposit too small"
    expiry: uint256 = convert(request.expiry, uint256)
    assert expiry > block.timestamp, "leases: expired"
    assert expiry <= block.timestamp + convert(offer.max_duration, uint256), "leases: too long"
    close_delay: uint256 = convert(request.close_delay, uint256)
    assert (
        close_delay >= max(convert(offer.close_delay_min, uint256), MIN_CLOSE_DELAY)
        and close_delay <= min(convert(offer.close_delay_max, uint256), MAX_CLOSE_DELAY)
    ), "leases: close delay out of range"
    assert expiry + close_delay <= _U40, "leases: too long"

    provider: uint256 = convert(request.provider, uint256)
    offer_id: uint256 = convert(request.offer_id, uint256)
    active: uint256 = self.active_leases[provider][offer_id]
    assert active < convert(offer.max_active, uint256), "leases: offer full"
    self.active_leases[provider][offer_id] = active + 1
    return fee_bps


@internal
def _close(lease_id: bytes32, is_revocation: bool):
    payment: uint256 = self._check_lease(lease_id)
    funds: uint256 = self._funds[lease_id]
    origin: uint256 = self._origin[lease_id]
    provider: uint256 = (payment >> 160) & _U32
    closes_at: uint256 = self._closes_at(funds, provider)
    assert block.timestamp < closes_at, "leases: closed"
    flags: uint256 = _CLOSING
    if msg.sender == convert(origin & _U160, address):
        closes_at = min(closes_at, block.timestamp + ((origin >> 160) & _U32))
        if is_revocation:
            flags |= _REVOKED
    else:
        assert not is_revocation and msg.sender == staticcall registry.owner_of(
            convert(provider, uint32)
        ), "leases: not a party"
        closes_at = block.timestamp
    self._funds[lease_id] = (funds & ~(_U40 << 192)) | (closes_at << 192) | flags
    log LeaseClosed(lease_id=lease_id, caller=msg.sender, closes_at=closes_at, revoked=is_revocation)


@internal
@view
def _closes_at(funds: uint256, provider: uint256) -> uint256:
    closes_at: uint256 = (funds >> 192) & _U40
    ends_at: uint256 = self.leases_end[provider]
    if ends_at == 0:
        return closes_at
    return min(closes_at, ends_at)
