"""Candidates of several sources, which fail at times."""

from consumer.routing.catalogue import Catalogue
from protocol.chain.exceptions import RpcUnavailable
from tests.consumer.routing.candidates import Listed, candidate


async def test_sources__merged__newest_version_then_first_source() -> None:
    one = Listed([candidate(2), candidate(1, version=1, tier="first")])
    two = Listed([candidate(1, version=1, tier="second"), candidate(2, version=2), candidate(3)])
    catalogue = Catalogue([one, two])
    await catalogue.refresh()
    found = [(each.provider, each.offer.version, each.offer.document["tier"]) for each in catalogue.candidates]
    assert found == [(1, 1, "first"), (2, 2, "shared"), (3, 1, "shared")]


async def test_source_away__its_last_list_stays__one_that_answers_replaces_it() -> None:
    source, other = Listed(RpcUnavailable("away")), Listed([candidate(9)])
    catalogue = Catalogue([source, other])
    await catalogue.refresh()
    known = [catalogue.is_complete]
    source.found = [candidate(1), candidate(2)]
    await catalogue.refresh()
    assert [*known, catalogue.is_complete] == [False, True]
    before = catalogue.version
    source.found = RpcUnavailable("away")
    await catalogue.refresh()
    assert [each.provider for each in catalogue.candidates] == [1, 2, 9]
    assert catalogue.version == before
    source.found = [candidate(2)]
    await catalogue.refresh()
    assert [each.provider for each in catalogue.candidates] == [2, 9]
    assert catalogue.version == before + 1
