"""What llama.cpp logs: its last errors are kept for our messages, all else is dropped."""

import ctypes

import llama_cpp

_ERROR = 4
_KEPT = 20
_lines: list[str] = []


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if level == _ERROR:
        _lines.append(text.decode(errors="replace").strip())
        del _lines[:-_KEPT]


def keep_errors() -> None:
    """From now on llama.cpp writes nothing by itself."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def last_errors() -> str:
    """The errors kept, in one line."""
    return "; ".join(line for line in _lines if line) or "no further detail from llama.cpp"
