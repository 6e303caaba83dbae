"""Publishing a provider's metadata: the document on disk first, then its digest in the registry."""

from collections.abc import Callable
from pathlib import Path

from protocol import keystore
from protocol.keystore import Password
from protocol.typed_data import Domain
from provider import metadata
from provider.backup import OFFERS_FOLDER
from provider.config import Config
from provider.offers import OfferBook
from provider.owner import open_owner


def publish(config: Config, owner_key: Path, password: Password, report: Callable[[str], None]) -> metadata.Metadata:
    """Does what is not done yet. Raises ConfigError, ChainError, KeystoreError."""
    node = keystore.load(config.provider.node_key, password)
    with open_owner(config, owner_key, password) as (client, owner):
        domain = Domain(client.deployment.chain_id, client.deployment.address("LeaseEscrow"))
        offers = OfferBook(config.provider.data / OFFERS_FOLDER).current()
        known = metadata.prepare(config, client, domain, node, offers)
        urls = ", ".join(endpoint["url"] for endpoint in known.document["endpoints"])
        if owner.set_metadata(config.provider.id, known.digest) is None:
            report(f"the registry has the metadata of {urls} already")
        else:
            report(f"published the metadata of {urls}")
    return known
