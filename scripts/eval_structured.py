"""Whether answers have the form that was asked for: random JSON schemas, regular expressions and choices, over HTTP.

    python scripts/eval_structured.py http://localhost:8000 [--requests 500] [--seed 0] [--at-once 16]

Every answer is drawn at temperature 1 and judged by the `jsonschema` library, or Python's `re`. The schemas are bounded
(lengths, ranges, depth), so that every answer comes to its end within a context of some 1000 tokens: one that was cut
off counts as wrong.
Ends with 0 if all are right.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import jsonschema

WORDS = ("name", "age", "city", "tags", "note", "score", "done", "items", "größe", "城市")


class Asked(NamedTuple):
    form: dict[str, Any]  # of the body
    schema: Any  # None: `pattern`
    pattern: str


class Outcome(NamedTuple):
    asked: Asked
    text: str
    tokens: int
    problem: str | None


def schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """One that bounds the length of whatever is valid by it."""
    kinds = ["string", "integer", "number", "boolean", "enum", "pattern", "null"]
    if depth < 3:
        kinds += ["object", "object", "array", "anyOf"]
    kind = "object" if depth == 0 else rng.choice(kinds)
    match kind:
        case "object":
            names = rng.sample(WORDS, rng.randint(1, 4))
            required = [name for name in names if rng.random() < 0.7]
            properties = {name: schema(rng, depth + 1) for name in names}
            return {
                "type": "object", "properties": properties, "required": required, "additionalProperties": False
            }  # fmt: skip
        case "array":
            least = rng.randint(0, 2)
            return {
                "type": "array", "items": schema(rng, depth + 1), "minItems": least,
                "maxItems": least + rng.randint(0, 2),
            }  # fmt: skip
        case "anyOf":
            return {"anyOf": [schema(rng, depth + 1) for _ in range(rng.randint(2, 3))]}
        case "string":
            least = rng.randint(0, 5)
            return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[A-Z]{2}[0-9]{3}$", "^(ab|c){1,4}$", "^x?y{2,5}$"])}
        case "integer" | "number":
            low = rng.randint(-1000, 1000)
            bounds = {"type": kind, "minimum": low, "maximum": low + rng.randint(1, 2000)}
            # How many digits a fraction has is bounded by nothing else.
            return bounds | ({"multipleOf": 0.25} if kind == "number" else {})
        case "enum":
            return {"enum": rng.sample(["a", "bc", 1, 2.5, None, True, "日本"], rng.randint(1, 4))}
        case _:
            return {"type": kind}


def asked(rng: random.Random) -> Asked:
    which = rng.random()
    if which < 0.8:
        wanted = schema(rng)
        if which < 0.4:
            named = {"name": "it", "schema": wanted, "strict": True}
            return Asked({"response_format": {"type": "json_schema", "json_schema": named}}, wanted, "")
        return Asked({"structured_outputs": {"json": wanted}}, wanted, "")
    if which < 0.9:
        pattern = rng.choice(
            [r"[a-z]{3,8}@[a-z]{2,6}\.(com|org)", r"\d{4}-(0[1-9]|1[0-2])", r"(yes|no)(, [a-z]{1,9}){0,3}"]
        )
        return Asked({"structured_outputs": {"regex": pattern}}, None, pattern)
    texts = rng.sample(WORDS, 3)
    return Asked({"structured_outputs": {"choice": texts}}, None, "|".join(map(re.escape, texts)))


def judged(wanted: Asked, text: str, finish: str) -> str | None:
    """What is wrong."""
    if finish != "stop":
        return f"it ended with {finish!r}"
    if wanted.schema is None:
        return None if re.fullmatch(wanted.pattern, text) else f"{wanted.pattern} does not match"
    try:
        jsonschema.validate(json.loads(text), wanted.schema)
    except (ValueError, jsonschema.ValidationError) as e:
        return str(e).splitlines()[0]
    return None


def ask(client: httpx.Client, base: str, number: int, wanted: Asked) -> Outcome:
    body = {
        "messages": [{"role": "user", "content": f"Tell me something ({number})."}],
        "temperature": 1, "seed": number, **wanted.form,
    }  # fmt: skip
    response = client.post(f"{base}/v1/chat/completions", json=body)
    if response.status_code != 200:
        return Outcome(wanted, "", 0, response.text)
    choice, usage = response.json()["choices"][0], response.json()["usage"]
    text = choice["message"]["content"]
    return Outcome(wanted, text, usage["completion_tokens"], judged(wanted, text, choice["finish_reason"]))


def evaluate(base: str, requests: int, seed: int, at_once: int) -> list[Outcome]:
    rng = random.Random(seed)
    wanted = [asked(rng) for _ in range(requests)]
    with httpx.Client(timeout=600) as client, ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda i: ask(client, base, i, wanted[i]), range(requests)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("base")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=16)
    args = parser.parse_args()
    started = time.monotonic()
    outcomes = evaluate(args.base, args.requests, args.seed, args.at_once)
    seconds = time.monotonic() - started
    wrong = [outcome for outcome in outcomes if outcome.problem is not None]
    for outcome in wrong[:5]:
        print(f"wrong: {outcome.problem}\n  asked {outcome.asked}\n  got {outcome.text!r}")
    tokens = [outcome.tokens for outcome in outcomes]
    of_schemas = sum(outcome.asked.schema is not None for outcome in outcomes)
    print(
        f"{len(outcomes)} answers ({of_schemas} by JSON schemas), {len(outcomes) - len(wrong)} valid and finished; "
        f"{sum(tokens)} tokens, {max(tokens)} at most; {seconds:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
