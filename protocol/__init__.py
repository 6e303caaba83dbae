"""What gateway, provider, indexer and contracts must agree on: pure, without input or output.

Start at `typed_data` (the signed messages), `signing` and `ids`; then `money`, `merkle`, `documents`, `models` and
`headers`. `docs/protocol.md` is the specification, `tests/protocol/vectors.json` its golden vectors.
"""
