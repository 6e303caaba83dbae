"""The spending part of one running gateway, put together."""

from consumer.config import ConsumerConfig
from consumer.lease_client import LeaseClient
from consumer.records import LeaseRecord
from consumer.session import TOKEN_CONTRACTS, Session
from consumer.spending.api_keys import ApiKeys
from consumer.spending.budgets import Budgets
from consumer.spending.desk import LeaseDesk
from consumer.spending.file import GatewayFile
from consumer.spending.keeper import LeaseKeeper
from consumer.spending.lease_notes import LeaseNotes
from consumer.tokenizers import Tokenizers
from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.money import TOKENS, Token
from protocol.signing import Signer

FILE_NAME = "gateway.sqlite"


def market_tokens(client: ChainClient) -> dict[str, Token]:
    """The market's tokens by address."""
    return {client.deployment.address(contract): TOKENS[symbol] for symbol, contract in TOKEN_CONTRACTS.items()}


class Spending:
    """Keys, budgets and leases over a session; `start` and `stop` on the gateway's event loop."""

    def __init__(self, session: Session, config: ConsumerConfig) -> None:
        """Raises StoreError, TokenizerUnusable, ChainError."""
        client = session.client
        self.clock = MarketClock.of(client.deployment.profile)
        self.tokenizers = Tokenizers(config.tokenizer_files)
        self._file = GatewayFile(config.data / FILE_NAME)
        self.keys = ApiKeys(self._file, self.clock.now)
        self.budgets = Budgets(config.budget, self.keys, session.store, market_tokens(client), self.clock.now)

        def make_client(record: LeaseRecord, signer: Signer) -> LeaseClient:
            return LeaseClient(
                domain=session.domain,
                store=session.store,
                record=record,
                signer=signer,
                now=self.clock.now,
                key_lookup=lambda key: client.get(client.reads.key_record(key)),
                accept_unverified=config.accept_unverified,
                idle_timeout_s=config.gateway.idle_timeout_s,
                hold=lambda draft: self.budgets.hold(draft.key_id, record.model, record.token, draft.max_cost),
            )

        self.keeper = LeaseKeeper(
            settings=config.leases,
            token=client.deployment.address(TOKEN_CONTRACTS[config.leases.amount.token.symbol]),
            desk=LeaseDesk(client, session.leases, lambda: session.owner.address, session.sender),
            store=session.store,
            notes=LeaseNotes(self._file),
            tokenizers=self.tokenizers,
            clock=self.clock,
            session_key=session.leases.session_key,
            make_client=make_client,
        )

    async def start(self) -> None:
        """Takes up what earlier runs left. Raises StoreError."""
        await self.keeper.start()

    async def stop(self) -> None:
        """Ends what is on its way; leases stay open."""
        await self.keeper.stop()
        self.tokenizers.close()
        self._file.close()
