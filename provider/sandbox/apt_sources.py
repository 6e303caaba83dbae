"""The machine's own package sources, read as those of a later release of its distribution."""

import re
from dataclasses import dataclass
from pathlib import Path

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]*)")
_DISTRIBUTION_KEYS = ("debian-archive", "ubuntu-archive")


@dataclass(frozen=True)
class Source:
    """One archive; `signed_by` is a keyring's path or empty for those apt trusts by default."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def text(self) -> str:
        """As apt reads it. What switches signatures off is never carried over."""
        lines = [
            "Types: deb",
            f"URIs: {self.uri}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
            *([f"Signed-By: {self.signed_by}"] if self.signed_by else []),
        ]
        return "\n".join(lines) + "\n"


def read_sources(folder: Path = Path("/etc/apt")) -> list[Source]:
    """Everything the machine is configured to install from."""
    found: list[Source] = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if path.suffix == ".list":
            found += _one_line_sources(text)
        elif path.suffix == ".sources":
            found += _stanzas(text)
    return found


def for_release(sources: list[Source], codename: str, later: str) -> list[Source]:
    """The distribution's main archive, as of the release `later`. Sources of other parties are left out."""
    return [
        Source(source.uri, (later,), ("main",), source.signed_by)
        for source in sources
        if codename in source.suites
        and "main" in source.components
        and (not source.signed_by or Path(source.signed_by).name.startswith(_DISTRIBUTION_KEYS))
    ]


def _one_line_sources(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.strip())
        if match:
            options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
            components = tuple(match["components"].split())
            found.append(Source(match["uri"], (match["suite"],), components, options.get("signed-by", "")))
    return found


def _stanzas(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
            suites, components = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
            signed_by = fields.get("signed-by", "")
            found += [Source(uri, suites, components, signed_by) for uri in fields.get("uris", "").split()]
    return found
