"""From tokens' bytes to text that may be sent: whole characters only, and nothing that might become a stop string."""

import codecs


class StopText:
    """Collects the pieces of one answer and releases text as soon as it can no longer be part of a stop string."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Adds a token's bytes; returns what may be sent now. Sets `stopped` when a stop string is complete."""
        self._held += self._decoder.decode(piece)
        ends = [position for stop in self._stops if (position := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            text, self._held = self._held[: min(ends)], ""
            return text
        kept = self._longest_stop_prefix()
        cut = len(self._held) - kept
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def finish(self) -> str:
        """What is left at the end of an answer that no stop string ended."""
        if self.stopped:
            return ""
        text, self._held = self._held + self._decoder.decode(b"", True), ""
        return text

    def _longest_stop_prefix(self) -> int:
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
