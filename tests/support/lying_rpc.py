"""A node between the provider and anvil that changes single answers, as long as a test wants it to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from protocol.chain.client import ChainClient
from tests.protocol.chain.hostile_node import HostileNode
from tests.support.anvil import Anvil

Change = Callable[[dict[str, Any], Any], Any]
WORD = 64


class LyingRpc:
    """Relays to a real node. `client` asks it, and nothing else."""

    def __init__(self, server: HostileNode, node: Anvil, client: ChainClient) -> None:
        self.client = client
        self.url = server.url
        self._server = server
        self._node = node
        self.be_honest()

    def be_honest(self) -> None:
        self._server.relay(self._node.url, lambda _, result: result)

    @contextmanager
    def telling(self, change: Change) -> Iterator[None]:
        """Lies inside the block: `change` sees each call and its true result."""
        self._server.relay(self._node.url, change)
        try:
            yield
        finally:
            self.be_honest()

    def swallowing(self, sender: str) -> Change:
        """No transaction is passed on, and each is said to be mined, successful and final."""
        block = self.client.head()
        swallowed: set[str] = set()

        def change(call: dict[str, Any], result: Any) -> Any:
            if call["method"] == "eth_sendRawTransaction":
                self._node.rpc("anvil_dropTransaction", [result])
                swallowed.add(result)
            if call["method"] != "eth_getTransactionReceipt" or call["params"][0] not in swallowed:
                return result
            return {
                "transactionHash": call["params"][0],
                "blockNumber": hex(block.number),
                "blockHash": "0x" + block.hash.hex(),
                "from": sender,
                "status": "0x1",
                "gasUsed": "0x5208",
                "effectiveGasPrice": "0x1",
                "logs": [],
            }

        return change

    def lease_says(self, lease_id: bytes, **values: int) -> Change:
        """Members of a lease as they are not."""
        entries = self.client.abi("LeaseEscrow").entries
        (view,) = (entry for entry in entries if entry.get("name") == "lease")
        names = [member["name"] for member in view["outputs"][0]["components"]]
        data = "0x" + self.client.reads.lease(lease_id).data.hex()

        def change(call: dict[str, Any], result: Any) -> Any:
            if call["method"] != "eth_call" or call["params"][0]["data"] != data:
                return result
            words = [result[start : start + WORD] for start in range(2, len(result), WORD)]
            for name, value in values.items():
                words[names.index(name)] = f"{value:064x}"
            return "0x" + "".join(words)

        return change


@contextmanager
def lying_rpc(node: Anvil, client: ChainClient) -> Iterator[LyingRpc]:
    """In front of `node`, for the deployment of `client`."""
    with (
        HostileNode(node.chain_id) as server,
        ChainClient([server.url], client.deployment) as asking,
    ):
        yield LyingRpc(server, node, asking)
