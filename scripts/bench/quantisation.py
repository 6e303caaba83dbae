"""How near the default model, with 8-bit weights, is to the 4-bit file it is made from: perplexity, log-probabilities.

Both files read the same text, the beginning of Python's own language reference, in windows. For each token but a
window's first it is noted which log-probability a file gives it after those before it, and which it holds likeliest.
"""

from __future__ import annotations

import platform
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

from provider.engine.llama import Batcher, Model, Row
from provider.engine.sampling import log_sum
from provider.engine.threads import ThreadPool
from scripts.bench import Report
from scripts.default_model import default_model, packaged_model

THREADS = 2
WINDOW = 512
WINDOWS = 16
TEXT = "\n".join(topics[name] for name in sorted(topics))

LogProbabilities = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.int64]


def run() -> Report:
    """Read the text with one file after the other."""
    q4_1, likeliest_q4_1 = score(packaged_model(), WINDOWS)
    q8_0, likeliest_q8_0 = score(default_model(), WINDOWS)
    delta = np.abs(q8_0 - q4_1)
    perplexity = {"q4_1": float(np.exp(-q4_1.mean())), "q8_0": float(np.exp(-q8_0.mean()))}
    figures: dict[str, float | str] = {
        **{f"perplexity_{name}": round(value, 4) for name, value in perplexity.items()},
        "mean_abs_delta_logprob_nats": round(float(delta.mean()), 4),
        "p99_abs_delta_logprob_nats": round(float(np.quantile(delta, 0.99)), 4),
        "max_abs_delta_logprob_nats": round(float(delta.max()), 4),
        "same_likeliest_token": round(float((likeliest_q8_0 == likeliest_q4_1).mean()), 4),
        "tokens": len(delta),
        "python": platform.python_version(),
    }
    return Report(
        columns=("", "perplexity", "MiB"),
        rows=[
            ("as packaged, Q4_1", perplexity["q4_1"], packaged_model().stat().st_size / 2**20),
            ("default model, Q8_0", perplexity["q8_0"], default_model().stat().st_size / 2**20),
        ],
        figures=figures,
        notes=[
            f"{len(delta)} tokens of the reference of Python {figures['python']}, {WINDOWS} windows of {WINDOW}",
            f"|Δ log-probability|: {figures['mean_abs_delta_logprob_nats']} nats at the mean, "
            f"{figures['p99_abs_delta_logprob_nats']} at the 99th percentile",
            f"the same token likeliest at {figures['same_likeliest_token']:.2%} of places",
        ],
    )


def score(path: Path, windows: int) -> tuple[LogProbabilities, Tokens]:
    """Of each token of the text: its log-probability in nats, and the token likeliest in its place."""
    model = Model(path)
    batcher = Batcher(model, context=WINDOW, sequences=1, pool=ThreadPool(THREADS), batch=WINDOW)
    tokens = model.tokenize(TEXT, add_special=False, parse_special=False)[: windows * WINDOW]
    scored: list[float] = []
    likeliest: list[int] = []
    for start in range(0, len(tokens), WINDOW):
        window = tokens[start : start + WINDOW]
        batcher.keep(0, 0)
        status = batcher.decode([Row(token, 0, place, wants_logits=True) for place, token in enumerate(window)])
        if status != 0:
            raise RuntimeError(f"decoding failed with status {status}")
        for place, token in enumerate(window[1:]):
            logits = batcher.logits(place)
            scored.append(float(logits[token]) - log_sum(logits))
            likeliest.append(int(logits.argmax()))
    return np.array(scored), np.array(likeliest)
