"""From nothing to a worker that can run: keys, stake, registration, an offer, and the configuration file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password
from protocol.money import CLAW, Money
from protocol.sandboxes import SandboxTier
from protocol.signing import Signer
from protocol.typed_data import Domain
from provider.backup import OFFERS_FOLDER
from provider.models.library import ModelLibrary
from provider.offering import SERVED_CONTEXT, publish_offer, terms_for
from provider.offers import OfferBook
from provider.owner import Owner

CONFIG_FILE = "provider.toml"


@dataclass(frozen=True)
class EnrolmentPlan:
    """What `clawmarket provider init` was asked for. Without a public `url` only this machine reaches the worker."""

    folder: Path
    rpc: str
    deployment: Path
    model: Path
    model_name: str
    owner: Path
    price_in: str
    price_out: str
    stake: str
    port: int = 8080
    url: str = ""
    scrypt_n: int = keystore.SCRYPT_N


@dataclass(frozen=True)
class Enrolment:
    """What came of it."""

    provider: int
    offer_id: int
    version: int
    operator: str
    config: Path


def enrol(plan: EnrolmentPlan, password: Password, found: SandboxTier, report: Callable[[str], None]) -> Enrolment:
    """Does everything that is not done yet; offers the sandbox that was found here.

    Raises ConfigError, ChainError, KeystoreError.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    deployment = deployments.load_file(plan.deployment)
    data = plan.folder / "data"
    entry = ModelLibrary(data).add(plan.model, plan.model_name).entry
    terms, document, limits = terms_for(deployment, entry, plan.price_in, plan.price_out, found)
    stake = Money.parse(plan.stake, CLAW).units
    node = _key(plan.folder / "node.json", password, plan.scrypt_n)
    operator = _key(plan.folder / "operator.json", password, plan.scrypt_n)
    domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
    with (
        ChainClient([plan.rpc], deployment) as client,
        TransactionSender(
            client, keystore.load(plan.owner, password), data / "owner.sqlite", SenderPolicy(poll_s=0.2)
        ) as sender,
    ):
        client.check_deployment()
        owner = Owner(client, sender, domain)
        if owner.stake(stake):
            report(f"staked {Money(stake, CLAW)}")
        provider = owner.register(node)
        report(f"registered as provider {provider} with node key {node.address}")
        book = OfferBook(data / OFFERS_FOLDER)
        known, is_new = publish_offer(owner, provider, book, terms, document, limits)
        if is_new:
            report(f"published offer {known.offer_id}: {plan.model_name} in the sandbox {known.sandbox}")
    config = _write_config(plan, provider)
    return Enrolment(provider, known.offer_id, known.version, operator.address, config)


def _key(path: Path, password: Password, scrypt_n: int) -> Signer:
    if path.exists():
        return keystore.load(path, password)
    return keystore.create(path, password, scrypt_n=scrypt_n)


def _write_config(plan: EnrolmentPlan, provider: int) -> Path:
    path = plan.folder / CONFIG_FILE
    if path.exists():
        return path
    reached = f'host = "0.0.0.0"\nport = {plan.port}\n\n[metadata]\nurls = [{json.dumps(plan.url)}]'
    path.write_text(
        f"""[chain]
rpc = ["{plan.rpc}"]
deployment = "{plan.deployment.resolve()}"

[provider]
id = {provider}

[engine]
context = {SERVED_CONTEXT}

[serving]
{reached if plan.url else f"port = {plan.port}"}
""",
        encoding="utf-8",
    )
    return path
