"""Prompts of canaries: new each time, so that none can be known beforehand."""

import random

_OPENINGS = (
    "Write a short note about {0} and {1}.",
    "In the year {2} {0} was still more than {1}. Explain why.",
    "Question: What do {0} and {1} have in common? Answer:",
    "My list of {2} things begins with {0}, {1} and",
    "The following is a letter to a friend about {0}.\n\nDear friend, since {1}",
    "Translate into French: {0} before {1}, in {2} words.",
    "Here is what a guide says of {0}: it needs {2} grams of {1}, and then",
    "def {0}_of_{1}(n: int = {2}) -> int:\n",
)
_LISTED = (
    "apple bridge candle desert engine forest garden harbour island jacket kettle ladder market needle orange "
    "pepper quarry river saddle temple umbrella valley window yard copper basket castle dragon eagle feather "
    "glacier hammer ivory jungle kitchen lantern mirror nephew ocean parrot quilt ribbon silver tunnel uncle "
    "violin wagon winter"
)
_WORDS = _LISTED.split()


def new_prompt() -> str:
    """One of some hundred million."""
    drawn = random.SystemRandom()
    first, second = drawn.sample(_WORDS, 2)
    return drawn.choice(_OPENINGS).format(first, second, drawn.randrange(2, 10_000))
