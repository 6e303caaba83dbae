# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title Arbitration
@custom:contract-name Arbitration
@license MIT
@notice Stands where disputes will be decided and refuses every one of them. The escrow and the stakes name this address
        as the only one that may freeze, refund and slash; it has no code that would, so in this deployment nobody can.
        A market with arbitration is a new deployment of all contracts.
        Invariant: it calls nothing and moves nothing.
"""

escrow: public(immutable(address))
staking: public(immutable(address))
registry: public(immutable(address))


@deploy
def __init__(escrow_: address, staking_: address, registry_: address):
    escrow = escrow_
    staking = staking_
    registry = registry_


@external
@payable
def __default__():
    raise "arbitration: not in this deployment"
