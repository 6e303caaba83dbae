"""From nothing to a worker that can run: keys, stake, registration, an offer, and the configuration file."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password
from protocol.money import CLAW, Money, Price, parse_price
from protocol.signing import Signer
from protocol.typed_data import Domain, hash_struct
from provider.backup import OFFERS_FOLDER
from provider.exceptions import ConfigError
from provider.model_card import ENGINE_NAME, describe_model, engine_build
from provider.offers import Offer, OfferBook, make_document, make_terms
from provider.owner import OfferLimits, Owner

CONFIG_FILE = "provider.toml"
SERVED_CONTEXT = 4096
MIN_DEPOSIT = "0.1"
"""Of the offer's token: what a lease must lock up, fifty times the credit given to a stranger."""


@dataclass(frozen=True)
class EnrolmentPlan:
    """What `clawmarket provider init` was asked for."""

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
    scrypt_n: int = keystore.SCRYPT_N


@dataclass(frozen=True)
class Enrolment:
    """What came of it."""

    provider: int
    offer_id: int
    version: int
    operator: str
    config: Path


def enrol(plan: EnrolmentPlan, password: Password, report: Callable[[str], None]) -> Enrolment:
    """Does everything that is not done yet. Raises ConfigError, ChainError, KeystoreError."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    deployment = deployments.load_file(plan.deployment)
    entry = describe_model(plan.model, plan.model_name)
    prices = _common_scale(parse_price(plan.price_in), parse_price(plan.price_out))
    stake = Money.parse(plan.stake, CLAW).units
    node = _key(plan.folder / "node.json", password, plan.scrypt_n)
    operator = _key(plan.folder / "operator.json", password, plan.scrypt_n)
    data = plan.folder / "data"
    data.mkdir(exist_ok=True)
    domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
    token = deployment.address("TestUSDC" if prices[0].token.symbol == "USDC" else "ClawToken")
    limits = OfferLimits(min_deposit=Money.parse(MIN_DEPOSIT, prices[0].token).units)
    context = min(entry.context_length, SERVED_CONTEXT)
    model = entry.terms_model(engine=ENGINE_NAME, build=engine_build(), context_length=context)
    document = make_document(model, max_units_in=context, max_units_out=context, max_concurrent=8)
    terms = make_terms(
        document,
        token=token,
        price_in=prices[0].price,
        price_out=prices[1].price,
        price_cached=prices[0].price // 2,
        unit_scale=prices[0].unit_scale,
    )
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
        known = next((offer for offer in book.all() if offer.digest == hash_struct(terms)), None)
        if known is None:
            offer_id, version = owner.create_offer(provider, terms, limits)
            known = Offer(offer_id, version, terms, document)
            book.add(known)
            report(f"published offer {offer_id}: {plan.model_name}")
    config = _write_config(plan, provider)
    return Enrolment(provider, known.offer_id, known.version, operator.address, config)


def _key(path: Path, password: Password, scrypt_n: int) -> Signer:
    if path.exists():
        return keystore.load(path, password)
    return keystore.create(path, password, scrypt_n=scrypt_n)


def _common_scale(first: Price, second: Price) -> tuple[Price, Price]:
    if first.token != second.token:
        raise ConfigError("prices of input and output must be in the same token")
    if first.unit != "token" or second.unit != "token":
        raise ConfigError("prices of inference are per token, e.g. '0.01 USDC per 1K tokens'")
    scale = max(first.unit_scale, second.unit_scale)
    return first.rescaled(scale), second.rescaled(scale)


def _write_config(plan: EnrolmentPlan, provider: int) -> Path:
    path = plan.folder / CONFIG_FILE
    if path.exists():
        return path
    threads = max(1, (os.cpu_count() or 2) - 1)
    path.write_text(
        f"""[chain]
rpc = ["{plan.rpc}"]
deployment = "{plan.deployment.resolve()}"

[provider]
id = {provider}

[engine]
model = "{plan.model.resolve()}"
threads = {threads}
context = {SERVED_CONTEXT}

[serving]
port = {plan.port}
""",
        encoding="utf-8",
    )
    return path
