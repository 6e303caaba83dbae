# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title node_keys
@license MIT
@notice Which key speaks for a provider, and when: the key now, and a record of every key ever used.
        Invariant: a key belongs to one provider for one unbroken span of time and never comes back; nobody enters a
        key without its signature over the owner's address.
"""

from . import signature
from . import typed_data


FOREVER: constant(uint256) = 2**40 - 1
_MASK_32: constant(uint256) = 2**32 - 1
_MASK_40: constant(uint256) = 2**40 - 1


# The key valid now, by provider.
_current: HashMap[uint32, address]

# Key to provider 32 | valid_from 40 | valid_until 40, lowest bits first; 0 says that the key was never used.
_records: HashMap[address, uint256]


@internal
def _install(provider: uint32, owner: address, key: address, r: bytes32, vs: bytes32, escrow: address) -> address:
    """
    @notice Makes `key` the provider's key from now on and ends the one before.
    @param r With `vs`, the key's signature of NodeKey{owner} in the escrow's domain.
    @return The key before; zero if there was none.
    """
    assert key != empty(address), "registry: node key is zero"
    assert self._records[key] == 0, "registry: node key was used before"
    digest: bytes32 = typed_data._digest(typed_data._domain_separator(escrow), typed_data._hash_node_key(owner))
    assert signature._recover(digest, r, vs) == key, "registry: bad node key signature"
    old_key: address = self._current[provider]
    if old_key != empty(address):
        self._records[old_key] = (self._records[old_key] & ~(_MASK_40 << 72)) | (block.timestamp << 72)
    self._current[provider] = key
    self._records[key] = convert(provider, uint256) | (block.timestamp << 32) | (FOREVER << 72)
    return old_key


@internal
@view
def _record(key: address) -> (uint32, uint40, uint40):
    """
    @notice (provider, valid_from, valid_until), both ends in seconds and included.
    """
    word: uint256 = self._records[key]
    return (
        convert(word & _MASK_32, uint32),
        convert((word >> 32) & _MASK_40, uint40),
        convert((word >> 72) & _MASK_40, uint40),
    )
