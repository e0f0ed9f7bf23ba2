"""Text as tokens arrive: whole characters only, and an end at any of the stop texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNKNOWN = "\ufffd"  # what decoders show for bytes that are not, or not yet, a character


class Stream:
    """The text of one row. What `push` and `finish` return, joined, is `text`.

    Held back until more is known: a character whose last bytes may still come, and what may begin a stop text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stop: Sequence[str] = ()):
        self.decode, self.prompt, self.stop = decode, [int(token) for token in prompt], [text for text in stop if text]
        self.skip = len(decode(self.prompt))  # decoded together: some decoders treat the start of a text apart
        self.tokens: list[int] = []
        self.text = ""
        self.ended: str | None = None  # "doc" or "stop"

    def push(self, tokens: Sequence[int], doc: int) -> str:
        """Take tokens up to `doc` or the end of a stop text; none after that."""
        if self.ended:
            return ""
        tokens = [int(token) for token in tokens]
        if doc in tokens:
            tokens, self.ended = tokens[: tokens.index(doc)], "doc"
        before = len(self.tokens)
        self.tokens += tokens
        text = self._decoded(len(self.tokens))
        if self._cut(text) is not None:
            self.ended = "stop"
            length = next(i for i in range(before, len(self.tokens) + 1) if self._cut(self._decoded(i)) is not None)
            del self.tokens[length:]
            text = self._decoded(length)
            return self._emit(text[: self._cut(text)])
        return self._emit(text if self.ended else text[: len(text) - self._unsure(text)])

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        return "" if self.ended else self._emit(self._decoded(len(self.tokens)))

    def _decoded(self, length: int) -> str:
        return self.decode(self.prompt + self.tokens[:length])[self.skip :]

    def _cut(self, text: str) -> int | None:
        """Where the first stop text starts."""
        return min((text.index(stop) for stop in self.stop if stop in text), default=None)

    def _unsure(self, text: str) -> int:
        """How many characters at the end may still change."""
        sizes = [size for stop in self.stop for size in range(1, len(stop)) if text.endswith(stop[:size])]
        if text.endswith(UNKNOWN):
            sizes += [1, 1 + self._unsure(text[:-1])]
        return max(sizes, default=0)

    def _emit(self, text: str) -> str:
        piece, self.text = text[len(self.text) :], text
        return piece
