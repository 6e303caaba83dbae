"""`KEEP=1`: the market stays up, for whoever wants to ask it."""

import contextlib

from consumer.gateway.commands_access import own_key
from scripts.demo.failed import DemoFailed
from scripts.demo.gateway import NAME, Gateway
from scripts.demo.indexer import Indexer


def stay(gateway: Gateway, indexer: Indexer) -> None:
    """Until Ctrl-C. Raises DemoFailed when the gateway ends by itself."""
    gateway.deposit()
    url = gateway.start()
    world, screen = gateway.world, gateway.world.screen
    screen.plain()
    screen.plain(f"base URL  {url}")
    screen.plain(f"API key   {own_key(gateway.config)}")
    screen.plain(f"chain     {world.rpc}")
    screen.plain(f"indexer   {indexer.url}/v1/providers, its API in {indexer.url}/openapi.json")
    screen.plain("\n" + gateway.greeting(url).partition("\n")[2].strip("\n") + "\n")
    screen.plain(f"  export CLAWMARKET_CONSUMER={gateway.config_file}   # for `clawmarket chat`, `gateway status`\n")
    screen.plain("stays up until Ctrl-C", "bold")
    with contextlib.suppress(KeyboardInterrupt):
        raise DemoFailed(f"the gateway ended with code {world.processes.wait(NAME)}")
    screen.plain("stopped")
