"""Replacing the node key over a node that lies."""

from pathlib import Path

import pytest

from protocol import keystore
from protocol.chain.sender import SenderPolicy
from provider import key_rotation
from provider.exceptions import ConfigError
from tests.support.live_market import PASSWORD, SCRYPT_N, live_market
from tests.support.lying_rpc import lying_rpc
from tests.support.shop import open_shop


def test_key_stays_in_force_until_the_registry_has_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node swallows the transaction and says that it is final; the next run sends it again."""
    monkeypatch.setattr(key_rotation, "SenderPolicy", lambda **_: SenderPolicy(poll_s=0.02, stuck_s=0))
    with live_market(tmp_path / "market") as market, lying_rpc(market.node, market.client) as rpc:
        shop = open_shop(market, tmp_path / "provider")
        text = shop.enrolment.config.read_text()
        shop.enrolment.config.write_text(text.replace(market.node.url, rpc.url))
        old = shop.node().address
        owner = keystore.address(shop.owner_key)
        market.node.automine(False)
        with (
            rpc.telling(rpc.swallowing(owner)),
            pytest.raises(ConfigError, match="not in the registry yet"),
        ):
            key_rotation.rotate(shop.config, shop.owner_key, PASSWORD, SCRYPT_N)
        market.node.automine(True)
        assert market.client.node_key(shop.provider) == shop.node().address == old
        new = key_rotation.rotate(shop.config, shop.owner_key, PASSWORD, SCRYPT_N)
        assert market.client.node_key(shop.provider) == shop.node().address == new != old
