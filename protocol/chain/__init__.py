"""Reading the chain and sending to it.

`deployments` says what stands where; `client` reads it, `sender` writes to it; `rpc` (a web3 provider), `answers`,
`abi`, `events`, `fees` and `intents` are what those two are made of. `exceptions` has the tree of errors.
"""

from protocol.chain.client import ChainClient
from protocol.chain.deployments import Deployment, Profile
from protocol.chain.events import Event, EventDecoder
from protocol.chain.intents import State
from protocol.chain.sender import Outcome, SenderPolicy, TransactionSender

__all__ = [
    "ChainClient",
    "Deployment",
    "Event",
    "EventDecoder",
    "Outcome",
    "Profile",
    "SenderPolicy",
    "State",
    "TransactionSender",
]
