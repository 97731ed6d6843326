"""What is asked, and when: lengths with a long tail, prompts that begin alike, arrivals. All of it drawn from a seed.

Numbers in arrays; a request's tokens exist only from the moment somebody asks for them. It knows no policy and no
machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmserve.errors import ConfigError
from llmserve.request import Request, SamplingParams

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal: half of them are below `median`, and `sigma` is the standard deviation of their logarithm. Numbers
    are rounded up, and those above `longest` become that."""

    median: float
    sigma: float
    longest: int

    def __post_init__(self) -> None:
        if not (0 < self.median <= self.longest and self.sigma >= 0):
            raise ConfigError(
                f"lengths with median {self.median}, sigma {self.sigma} and at most {self.longest} do not exist; the "
                "median must be above 0 and at most the longest, sigma 0 or more."
            )

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        lengths = np.ceil(self.median * np.exp(self.sigma * rng.standard_normal(count)))
        return np.minimum(lengths, self.longest).astype(np.int64)

    def __str__(self) -> str:
        return f"log-normal, median {self.median:g}, sigma {self.sigma:g}, at most {self.longest}"


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Every prompt begins with one of `count` system prompts of `tokens` tokens; the k-th most popular is chosen in
    proportion to 1 / k^`exponent` (Zipf). With a count of 0 prompts have nothing in common."""

    count: int
    tokens: int
    exponent: float

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        if not self.count:
            return np.full(count, -1)
        weights = np.arange(1, self.count + 1) ** -self.exponent
        return rng.choice(self.count, size=count, p=weights / weights.sum())

    def __str__(self) -> str:
        if not self.count:
            return "no common beginnings"
        return f"one of {self.count} system prompts of {self.tokens} tokens first, Zipf exponent {self.exponent:g}"


class Arrivals(Protocol):
    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """`count` ascending times in seconds."""


@dataclass(frozen=True, slots=True)
class Together:
    """All are there from the beginning: what a server does with them is its capacity."""

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        return np.zeros(count)

    def __str__(self) -> str:
        return "all at once"


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent, exponentially distributed gaps; `rate` requests a second."""

    rate: float

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        return np.cumsum(rng.exponential(1 / self.rate, count))

    def __str__(self) -> str:
        return f"Poisson, {self.rate:.3g} requests/s"


@dataclass(frozen=True, slots=True)
class Bursts:
    """A Poisson process that is modulated: bursts and lulls take turns, each of exponentially distributed length with
    the means `burst` and `lull` in seconds. In a burst `peak` times the mean `rate` arrives, in a lull what is left."""

    rate: float
    burst: float
    lull: float
    peak: float

    def __post_init__(self) -> None:
        if self.peak * self.burst > self.burst + self.lull:
            raise ConfigError(
                f"bursts of {self.burst:g} s at {self.peak:g} times the mean rate and lulls of {self.lull:g} s exceed "
                "that mean; lower the peak or lengthen the lulls."
            )

    @property
    def lull_rate(self) -> float:
        return self.rate * (self.burst + self.lull - self.peak * self.burst) / self.lull

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        # In operational time, in which the process has rate 1 throughout, it is plain; then the clock is bent back.
        plain = np.cumsum(rng.exponential(1.0, count))
        edges, operational = [0.0], [0.0]
        while operational[-1] < plain[-1]:
            in_lull = len(edges) % 2
            length = rng.exponential(self.lull if in_lull else self.burst)
            rate = self.lull_rate if in_lull else self.peak * self.rate
            edges.append(edges[-1] + length)
            operational.append(operational[-1] + length * rate)
        return np.interp(plain, operational, edges)

    def __str__(self) -> str:
        return (
            f"bursts, {self.rate:.3g} requests/s on average: {self.peak:g} times that for {self.burst:g} s, then "
            f"{self.lull_rate / self.rate:.2g} times that for {self.lull:g} s (exponentially distributed, means)"
        )


@dataclass(frozen=True)
class Trace:
    """The same for every policy: request i arrives i-th."""

    arrivals: Floats
    prompts: Ints  # lengths, a system prompt included
    outputs: Ints  # lengths
    prefixes: Ints  # which system prompt; -1: none
    prefix_tokens: int

    def __len__(self) -> int:
        return len(self.arrivals)

    @cached_property
    def _shared(self) -> list[tuple[int, ...]]:
        return [(k,) * self.prefix_tokens for k in range(int(self.prefixes.max(initial=-1)) + 1)]

    def request(self, index: int) -> Request:
        """After its system prompt it has tokens that no other request has; only who is equal matters to a cache."""
        own = len(self._shared) + index
        prefix = self._shared[k] if (k := self.prefixes[index]) >= 0 else ()
        prompt = prefix + (own,) * (int(self.prompts[index]) - len(prefix))
        return Request(index, prompt, SamplingParams(max_tokens=int(self.outputs[index]), temperature=0))


@dataclass(frozen=True, slots=True)
class Workload:
    prompts: Lengths  # what comes after the system prompt
    outputs: Lengths
    prefixes: Prefixes
    arrivals: Arrivals

    @property
    def longest_prompt(self) -> int:
        return self.prompts.longest + (self.prefixes.tokens if self.prefixes.count else 0)

    def draw(self, count: int, seed: int) -> Trace:
        """A source of its own for each quantity, so that another rate does not change the lengths."""
        prompts, outputs, prefixes, arrivals = (np.random.default_rng([seed, part]) for part in range(4))
        tokens = self.prefixes.tokens if self.prefixes.count else 0
        return Trace(
            arrivals=self.arrivals.draw(arrivals, count),
            prompts=self.prompts.draw(prompts, count) + tokens,
            outputs=self.outputs.draw(outputs, count),
            prefixes=self.prefixes.draw(prefixes, count),
            prefix_tokens=tokens,
        )

    def at(self, arrivals: Arrivals) -> Workload:
        return replace(self, arrivals=arrivals)

    def described(self) -> dict[str, str]:
        return {
            "arrivals": str(self.arrivals),
            "prompts": f"{self.prefixes}; then {self.prompts}",
            "new tokens": str(self.outputs),
        }
