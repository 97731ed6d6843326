"""The ranks of one host as a team: shared memory and a barrier, or the reason why there is neither.

Knows nothing of how ranks talk: whoever calls brings the exchange, and the class that the extension made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Team(Protocol):
    """What csrc/bind_team.cpp makes of csrc/team.hpp, which says what each of these does.

    Every error is a RuntimeError of one sentence. Addresses hold as long as the object does.
    """

    @property
    def handle(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def bytes_per_rank(self) -> int: ...
    def meet(self) -> None: ...
    def area(self, rank: int) -> int: ...
    def barrier(self) -> None: ...
    def abort(self) -> None: ...
    def stats(self) -> dict[str, float]: ...


class TeamClass(Protocol):
    def create(self, size: int, bytes_per_rank: int) -> Team: ...
    def attach(self, handle: str, rank: int) -> Team: ...


def form_team(
    teams: TeamClass, rank: int, size: int, bytes_per_rank: int, all_gather_text: Callable[[str], list[str]]
) -> tuple[Team | None, str]:
    """The team, or None and why. Every rank calls it, and all get a team or none does.

    `all_gather_text` gives every rank one short text of each, in rank order. RuntimeError where a rank died meanwhile.
    """
    team, problem = None, ""
    if rank == 0:
        team, problem = _try(lambda: teams.create(size, bytes_per_rank))
    handle = all_gather_text(team.handle if team else "")[0]
    if rank != 0 and handle:
        team, problem = _try(lambda: teams.attach(handle, rank))
    problems = [text for text in all_gather_text(problem) if text]
    if team is None or problems:
        return None, problems[0] if problems else "rank 0 gave no handle"
    team.meet()
    return team, ""


def _try(make: Callable[[], Team]) -> tuple[Team | None, str]:
    try:
        return make(), ""
    except RuntimeError as e:
        return None, str(e)
