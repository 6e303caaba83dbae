"""Package sources of a later release, from the machine's own."""

from pathlib import Path

import pytest

from provider.sandbox.apt_sources import Source, for_release, read_sources

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_stanzas_are_read(folder: Path) -> None:
    (folder / "sources.list.d/debian.sources").write_text(
        "Types: deb deb-src\n# a remark\nURIs: http://mirror.test/debian http://other.test/debian\n"
        f"Suites: old old-updates\nComponents: main contrib\nSigned-By: {KEYRING}\n\n"
        "Types: deb\nURIs: http://mirror.test/off\nSuites: old\nComponents: main\nEnabled: no\n\n"
        "Types: deb-src\nURIs: http://mirror.test/source\nSuites: old\nComponents: main\n"
    )
    found = read_sources(folder)
    assert [source.uri for source in found] == ["http://mirror.test/debian", "http://other.test/debian"]
    assert found[0] == Source("http://mirror.test/debian", ("old", "old-updates"), ("main", "contrib"), KEYRING)


def test_lines_are_read(folder: Path) -> None:
    (folder / "sources.list").write_text(
        "# deb http://mirror.test/commented old main\n"
        "deb http://mirror.test/debian old main contrib # why\n"
        f"deb [arch=amd64 signed-by={KEYRING}] http://signed.test/debian old main\n"
        "deb-src http://mirror.test/debian old main\n"
    )
    assert read_sources(folder) == [
        Source("http://mirror.test/debian", ("old",), ("main", "contrib")),
        Source("http://signed.test/debian", ("old",), ("main",), KEYRING),
    ]


def test_only_the_distributions_own_archive_is_read_as_a_later_release() -> None:
    own = Source("http://mirror.test/debian", ("old", "old-updates"), ("main",), KEYRING)
    others = [
        Source("http://mirror.test/security", ("old-security",), ("main",), KEYRING),
        Source("http://vendor.test/apt", ("old",), ("main",), "/usr/share/keyrings/vendor.gpg"),
        Source("http://vendor.test/apt", ("stable",), ("main",)),
        Source("http://vendor.test/apt", ("old",), ("vendor",)),
    ]
    assert for_release([own, *others], "old", "new") == [
        Source("http://mirror.test/debian", ("new",), ("main",), KEYRING)
    ]


def test_switched_off_signatures_are_not_carried_over(folder: Path) -> None:
    (folder / "sources.list").write_text("deb [trusted=yes allow-insecure=yes] http://mirror.test/debian old main\n")
    (folder / "sources.list.d/a.sources").write_text(
        "Types: deb\nURIs: http://mirror.test/debian\nSuites: old\nComponents: main\nTrusted: yes\n"
    )
    texts = [source.text().lower() for source in for_release(read_sources(folder), "old", "new")]
    assert len(texts) == 2
    assert not any("trusted" in text or "insecure" in text for text in texts)
