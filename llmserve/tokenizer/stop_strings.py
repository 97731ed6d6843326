"""Finding stop strings in text that arrives in parts, and showing none of their beginning.

The stop that is complete first ends the text (of two that are complete with the same character, the longer);
so the result depends on the text alone, not on how it was cut into tokens. Each character is looked at once per
stop string (Knuth, Morris and Pratt 1977).
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The stop strings of a request; `search()` begins looking for them in one sequence's text."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise ValueError("an empty stop string would end every text at once")
        # Longest first: the first to match at a character is then the one to report.
        self.stops = tuple(sorted(set(stops), key=len, reverse=True))
        self.borders = tuple(_borders(stop) for stop in self.stops)

    def search(self) -> StopSearch:
        return StopSearch(self)


class StopSearch:
    """Text goes in; what comes out cannot become part of a stop string any more."""

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops.stops
        self._borders = stops.borders
        self._matched = [0] * len(stops.stops)  # per stop: how much of it the text seen so far ends with
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """The text that may be shown, and the stop string that ends it here, if one does.

        After a stop nothing more may be fed.
        """
        if not self._stops:
            return text, None
        for position, char in enumerate(text, start=1):
            stop = self._advance(char)
            if stop is not None:
                seen = self._held + text[:position]
                self._held = ""
                return seen[: len(seen) - len(stop)], stop
        seen = self._held + text
        shown = len(seen) - max(self._matched)
        self._held = seen[shown:]
        return seen[:shown], None

    def end(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> str | None:
        complete = None
        for i, stop in enumerate(self._stops):
            matched, borders = self._matched[i], self._borders[i]
            while matched and stop[matched] != char:
                matched = borders[matched - 1]
            if stop[matched] == char:
                matched += 1
            if matched == len(stop):
                complete = complete or stop
                matched = 0
            self._matched[i] = matched
        return complete


def _borders(stop: str) -> tuple[int, ...]:
    """For each beginning of `stop`: the length of the longest shorter beginning that it also ends with."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = borders[length - 1]
        if stop[i] == stop[length]:
            length += 1
        borders[i] = length
    return tuple(borders)
