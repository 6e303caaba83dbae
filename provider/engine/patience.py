"""How much of the engine's time one request's grammar may take: everybody else's next token waits for it."""

from provider.engine.errors import GenerationError

PER_TOKEN_S = 0.1
AHEAD_S = 2.0
"""How far a request may run ahead of that: few tokens are expensive in a usual schema."""


class Patience:
    """One request's account, in processor time: how busy the machine is does not count."""

    def __init__(self) -> None:
        self._left_s = AHEAD_S

    def spend(self, seconds: float) -> None:
        """A token took so long. Raises GenerationError `bad_schema` when all have taken too long."""
        self._left_s = min(self._left_s + PER_TOKEN_S, AHEAD_S) - seconds
        if self._left_s < 0:
            raise GenerationError("bad_schema", "the JSON schema takes too long to keep: use fewer alternatives")
