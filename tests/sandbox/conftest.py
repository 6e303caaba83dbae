"""One private daemon for all tests of the suite."""

from collections.abc import Iterator

import pytest

from tests.support.sandbox import Sandbox, running_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as found:
        yield found
