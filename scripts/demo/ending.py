"""The end: leases closed and released, everybody's money withdrawn, the books made up."""

from contextlib import closing

from consumer.session import new_key
from consumer.spending.offline import DataFolder
from scripts.demo.books import Books, Share
from scripts.demo.chain import collect_fees
from scripts.demo.gateway import Gateway
from scripts.demo.provider import Provider
from scripts.demo.screen import usdc
from scripts.demo.world import CONSUMER, dev_signer

HOLD_S, CLOSE_DELAY_S = 5 * 86_400, 2 * 3_600


def withdraw_all(gateway: Gateway, providers: list[Provider], wallet_before: int) -> Books:
    """The gateway rests; `wallet_before` is what the consumer had before its deposit."""
    world = gateway.world
    with DataFolder(gateway.config_file) as folder:
        owed = {figure.record.provider: (figure.record.lease_id, figure.owed) for figure in folder.leases()}
        counted = sum(spent.owed + spent.promised for spent in folder.store.spending())
    _close_leases(gateway, [lease_id for lease_id, _ in owed.values()])
    world.travel(HOLD_S)
    world.screen.note("chain", "five days later the hold on earnings has passed")
    shares = []
    for provider in providers:
        lease_id, signed = owed[provider.number]
        lease = world.client.lease(lease_id)
        shares.append(Share(provider.number, signed, lease.settled, provider.collect(), lease.fee_bps))
    fees = collect_fees(world)
    debit = wallet_before - world.wallet(dev_signer(CONSUMER).address)
    in_escrow = world.wallet(world.client.deployment.address("LeaseEscrow"))
    return Books(tuple(shares), debit, counted, fees, in_escrow)


def _close_leases(gateway: Gateway, lease_ids: list[bytes]) -> None:
    world = gateway.world
    with closing(gateway.session) as session:
        with session.sender() as sender:
            for lease_id in lease_ids:
                session.leases.close(sender, lease_id)
            world.travel(CLOSE_DELAY_S)
            for lease_id in lease_ids:
                session.leases.release(sender, lease_id)
        with session.funds() as funds:
            rest = funds.balance(world.token)
            funds.withdraw(new_key(), world.token, rest, session.owner.address)
    world.screen.note("consumer", f"closed and released {len(lease_ids)} leases, withdrew the rest of {usdc(rest)}")
