"""Replacing the node key, on chain and on disk. Gone on with by running it again, wherever it was interrupted."""

from pathlib import Path

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import TransactionReverted
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import SCRYPT_N, Password
from protocol.signing import Signer
from protocol.typed_data import Domain, NodeKey
from provider.config import Config
from provider.exceptions import ConfigError
from provider.owner import TIMEOUT_S


def rotate(config: Config, owner_key: Path, password: Password, scrypt_n: int = SCRYPT_N) -> str:
    """Enters a new node key in the registry and puts it in the place of the old one; returns its address.

    The old keystore is kept beside it. The worker must not run meanwhile: it would go on signing with the old key.
    Raises ConfigError if the keystore is not the owner's, or the registry has the old key still; ChainError,
    KeystoreError.
    """
    current = config.provider.node_key
    coming = current.with_name(f"{current.stem}.new{current.suffix}")
    owner = keystore.load(owner_key, password)
    node = keystore.load(coming, password) if coming.exists() else keystore.create(coming, password, scrypt_n=scrypt_n)
    deployment = deployments.load_file(config.chain.deployment)
    with ChainClient(config.chain.rpc, deployment) as client:
        client.check_deployment()
        registered = client.get(client.reads.owner_of(config.provider.id))
        if registered != owner.address:
            raise ConfigError(
                f"provider {config.provider.id} belongs to {registered}, {owner_key} holds {owner.address}"
            )
        if client.node_key(config.provider.id) != node.address:
            try:
                _enter(config, client, owner, node)
            except TransactionReverted:
                if client.node_key(config.provider.id) != node.address:
                    raise
            if client.node_key(config.provider.id) != node.address:
                raise ConfigError("the new node key is not in the registry yet: run this again")
    if current.exists():
        current.rename(current.with_name(f"{current.stem}.{keystore.address(current)[2:10].lower()}{current.suffix}"))
    coming.rename(current)
    return node.address


def _enter(config: Config, client: ChainClient, owner: Signer, node: Signer) -> None:
    config.provider.data.mkdir(parents=True, exist_ok=True)
    domain = Domain(client.deployment.chain_id, client.deployment.address("LeaseEscrow"))
    proof = node.sign(domain, NodeKey(owner.address)).compact()
    data = client.encode("Registry", "rotate_node_key", config.provider.id, node.address, *proof)
    with TransactionSender(client, owner, config.provider.data / "owner.sqlite", SenderPolicy(poll_s=0.2)) as sender:
        registry = client.deployment.address("Registry")
        attempt = sender.retry(f"rotate:{node.address}", registry, data, is_over=lambda last: last.has_ended)
        sender.execute(attempt.key, registry, data, timeout=TIMEOUT_S)
