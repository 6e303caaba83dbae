# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title ClawToken
@custom:contract-name ClawToken
@license MIT
@notice CLAW: ERC-20 with EIP-2612 permit, 18 decimals, one billion at the start, all to the deployer.
        Invariant: in each year of 365 days from the deployment the owner mints at most 5 % of the supply the year
        began with; what was not minted in a year lapses.
        Refuses: minters beside the owner, minting more by waiting, fees on transfer, pausing, blacklists.
"""

from snekmate.auth import ownable
from snekmate.auth import ownable_2step
from snekmate.tokens import erc20

initializes: ownable
initializes: ownable_2step[ownable := ownable]
initializes: erc20[ownable := ownable]

exports: (
    ownable_2step.owner,
    ownable_2step.pending_owner,
    ownable_2step.transfer_ownership,
    ownable_2step.accept_ownership,
    ownable_2step.renounce_ownership,
    erc20.name,
    erc20.symbol,
    erc20.decimals,
    erc20.totalSupply,
    erc20.balanceOf,
    erc20.allowance,
    erc20.transfer,
    erc20.approve,
    erc20.transferFrom,
    erc20.burn,
    erc20.burn_from,
    erc20.permit,
    erc20.nonces,
    erc20.DOMAIN_SEPARATOR,
    erc20.eip712Domain,
)


event Minted:
    receiver: indexed(address)
    year: indexed(uint256)
    amount: uint256
    minted_in_year: uint256
    year_cap: uint256


INITIAL_SUPPLY: constant(uint256) = 10**9 * 10**18
YEAR: constant(uint256) = 365 * 86_400
CAP_BPS: constant(uint256) = 500
_BPS: constant(uint256) = 10_000


# Start of year 0; fixes the year boundaries for ever.
genesis: public(immutable(uint256))

# The year `_year_cap` and `_minted_in_year` belong to; an older one means nothing was minted this year.
_year: uint256

# The cap frozen at the year's first mint. Between the year's start and that mint supply can only have been burned, so
# the cap is never above 5 % of the supply at the year's start.
_year_cap: uint256

# Counts against the cap; burning does not give room back.
_minted_in_year: uint256


@deploy
def __init__():
    """
    @notice The deployer owns the token and holds the initial supply.
    """
    genesis = block.timestamp
    ownable.__init__()
    ownable_2step.__init__()
    erc20.__init__("OpenClaw", "CLAW", 18, "OpenClaw", "1")
    erc20._mint(msg.sender, INITIAL_SUPPLY)
    self._year_cap = INITIAL_SUPPLY * CAP_BPS // _BPS


@external
def mint(receiver: address, amount: uint256):
    """
    @notice Creates CLAW within the year's cap. Only the owner.
    @param receiver Not the zero address.
    @param amount Base units.
    """
    ownable._check_owner()
    year: uint256 = self._current_year()
    if year != self._year:
        self._year = year
        self._year_cap = erc20.totalSupply * CAP_BPS // _BPS
        self._minted_in_year = 0
    minted: uint256 = self._minted_in_year + amount
    assert minted <= self._year_cap, "clawtoken: yearly mint cap exceeded"
    self._minted_in_year = minted
    log Minted(receiver=receiver, year=year, amount=amount, minted_in_year=minted, year_cap=self._year_cap)
    erc20._mint(receiver, amount)


@external
@view
def mintable() -> uint256:
    """
    @notice What the owner may still mint this year, in base units.
    """
    if self._current_year() != self._year:
        return erc20.totalSupply * CAP_BPS // _BPS
    return self._year_cap - self._minted_in_year


@internal
@view
def _current_year() -> uint256:
    return (block.timestamp - genesis) // YEAR
