"""What can go wrong with the engine.

EngineError
├── EngineStartError   the process could not start or load the model; `code` says why
├── EngineCrashed      the process ended, or hung and was ended, while requests were running
└── GenerationError    one request failed; `code` says why, the engine goes on
"""


class EngineError(Exception):
    """Base of the engine's errors."""


class EngineStartError(EngineError):
    """The engine could not start.

    `model_missing`, `model_damaged`, `out_of_memory`, `start_timeout`, `exited`, `protocol` (its first frame is none)
    or `sandbox`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EngineCrashed(EngineError):  # noqa: N818 - it is what happened
    """The engine process ended, hung or broke its protocol while requests were running; it is restarted."""


class GenerationError(EngineError):
    """One request failed.

    By the request's fault: `prompt_too_long`, `bad_messages`, `bad_request`, `bad_schema`. By the engine's:
    `overloaded` (too many requests wait, try again), `engine_failed`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
