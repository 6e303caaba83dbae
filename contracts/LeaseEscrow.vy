# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title LeaseEscrow
@custom:contract-name LeaseEscrow
@license MIT
@notice Owns every payment token of the market: accounts, leases, settlement, held earnings, and what rulings do with
        them. It is also the one EIP-712 domain of the market.
        Invariant: nothing unsigned is ever paid, exits are never pausable, and no address that may move money can change:
        Params, Registry, Staking and Arbitration are immutable.
        Not supported: fee-on-transfer and rebasing tokens.
"""
from .interfaces import IParams
from .interfaces import IRegistry
from .interfaces import IStaking
from .modules import adjudication
from .modules import held_earnings
from .modules import escrow
from .modules import leases
from .modules import settlement
from .modules import typed_data

initializes: escrow
initializes: leases[escrow := escrow]
initializes: held_earnings[escrow := escrow, leases := leases]
initializes: settlement[escrow := escrow, leases := leases, held_earnings := held_earnings]
initializes: adjudication[escrow := escrow, leases := leases, held_earnings := held_earnings]

exports: (
    escrow.deposit,
    escrow.deposit_with_permit,
    escrow.withdraw,
    escrow.accounts,
    escrow.token_ids,
    escrow.tokens,
    escrow.params,
)
exports: (
    leases.open_lease,
    leases.bump_nonce,
    leases.top_up,
    leases.close,
    leases.revoke,
    leases.release,
    leases.end_leases,
    leases.lease,
    leases.nonces,
    leases.active_leases,
    leases.leases_end,
    leases.registry,
    leases.staking,
)
exports: (held_earnings.collect, held_earnings.earnings, held_earnings.held_words)
exports: (settlement.settle, settlement.collect_fees, settlement.fees)
exports: (
    adjudication.freeze,
    adjudication.pay_pot,
    adjudication.refund,
    adjudication.returned,
    adjudication.arbitration,
)


@deploy
def __init__(params: IParams, registry: IRegistry, staking: IStaking, arbitration: address):
    """
    @param params The market's parameters and token list.
    @param registry Providers and offers.
    @param staking Provider stakes; receives the stakers' share of fees.
    @param arbitration The only caller of freezes and refunds.
    """
    escrow.__init__(params)
    leases.__init__(registry, staking)
    adjudication.__init__(arbitration)


@external
@view
def domain_separator() -> bytes32:
    """
    @notice The EIP-712 domain separator of every type of the market.
    """
    return typed_data._domain_separator(self)


@external
@view
def eip712Domain() -> (bytes1, String[50], String[20], uint256, address, bytes32, DynArray[uint256, 1]):
    """
    @notice The domain's fields, as ERC-5267 gives them.
    """
    return (0x0f, typed_data.NAME, typed_data.VERSION, chain.id, self, empty(bytes32), [])
