"""Every receipt of the gateway against the roots that its providers anchored."""

from consumer.audit import Inclusion, prove_on_chain, prove_receipt
from consumer.spending.auditing import WRONG, Auditor, Finding, Verdict, requests_of
from consumer.spending.offline import DataFolder
from protocol.headers import Signed
from protocol.typed_data import Receipt
from scripts.demo.failed import DemoFailed
from scripts.demo.gateway import Gateway
from scripts.demo.screen import usdc
from scripts.demo.world import World, wait_for


def prove_all(gateway: Gateway) -> None:
    """By the gateway's own audit, and by the Lens contract."""
    world = gateway.world
    with DataFolder(gateway.config_file) as folder:
        auditor = Auditor(world.client, world.domain, lambda: world.client.head().timestamp)

        def proved() -> list[Finding]:
            findings = list(auditor.audit(requests_of(folder.store)))
            for finding in findings:
                if finding.verdict in WRONG:
                    raise DemoFailed(f"{finding.verdict}: {finding.reason}")
            return findings if all(finding.verdict is Verdict.PROVED for finding in findings) else []

        for finding in wait_for("the proof of every receipt", proved):
            lease, receipt = finding.audited.lease, finding.audited.receipt
            if receipt is None:
                raise DemoFailed(f"request {finding.audited.seq} has no receipt")
            found = prove_receipt(world.client, world.domain, lease.endpoint, lease.provider, receipt)
            _prove_by_lens(world, lease.provider, receipt, found)
            world.screen.note(
                f"provider {lease.provider}",
                f"{finding.reason} receipts under root 0x{found.root.hex()[:16]}…: {receipt.message.units_out} tokens, "
                f"{usdc(receipt.message.cost)}",
            )
    world.screen.note("gateway", "every receipt proven under an anchored root, by its audit and by the Lens contract")


def _prove_by_lens(world: World, provider: int, receipt: Signed[Receipt], found: Inclusion) -> None:
    if not prove_on_chain(world.client, world.domain, provider, receipt.message, found):
        raise DemoFailed("the Lens contract does not accept the proof")
    tampered = bytes([found.root[0] ^ 1]) + found.root[1:]
    wrong = Inclusion(found.position, found.count, tampered, found.proof)
    if prove_on_chain(world.client, world.domain, provider, receipt.message, wrong):
        raise DemoFailed("the Lens contract accepts a wrong root")
