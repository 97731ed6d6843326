"""`response_format` (OpenAI's) and `structured_outputs` (vLLM's): what form the answer must have, as a grammar."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from llmserve.errors import RequestError
from llmserve.grammar import MAX_BYTES
from llmserve.server import grammars
from llmserve.server.errors import shown
from llmserve.server.protocol.values import check_count

MAX_CHOICES = 500  # of one grammar: a thousand are more than its parser takes at a time
MAX_NAME_CHARS = 64


class Form(NamedTuple):
    """The grammar's text, and the parameter that asked for it."""

    grammar: str
    param: str


def checked_response_format(value: Any) -> Form | None:
    """{"type": "text" | "json_object"}, or {"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}."""
    at = "response_format"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RequestError(f"{at} must be an object with a type, not {shown(value)}.", param=at)
    kind = value.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise RequestError(
            f"{at}.type must be 'text', 'json_object' or 'json_schema', not {shown(kind)}.", param=f"{at}.type"
        )
    _only(value, {"type", "json_schema"} if kind == "json_schema" else {"type"}, at)
    if kind == "text":
        return None
    if kind == "json_object":
        return Form(grammars.json_object(), at)
    return Form(_schema_grammar(_named_schema(value.get("json_schema"), f"{at}.json_schema"), at), at)


def _named_schema(value: Any, at: str) -> Any:
    if not isinstance(value, dict):
        raise RequestError(f"{at} must be an object with a name and a schema, not {shown(value)}.", param=at)
    _only(value, {"name", "description", "schema", "strict"}, at)
    name = value.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        raise RequestError(f"{at}.name must be a string of 1 to {MAX_NAME_CHARS} characters.", param=f"{at}.name")
    if value.get("strict") not in (None, True, False):  # what is asked for is always kept to
        raise RequestError(f"{at}.strict must be true or false.", param=f"{at}.strict")
    if not isinstance(value.get("description"), str | None):
        raise RequestError(f"{at}.description must be a string.", param=f"{at}.description")
    return value.get("schema", {})


def checked_structured_outputs(value: Any) -> Form | None:
    """One of {"json": schema}, {"json_object": true}, {"regex": …}, {"choice": […]} and {"grammar": Lark}."""
    at = "structured_outputs"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RequestError(f"{at} must be an object, not {shown(value)}.", param=at)
    # vLLM's clients send all of its fields.
    given = {key: each for key, each in value.items() if each is not None and each is not False}
    _only(given, {"json", "json_object", "regex", "choice", "grammar"}, at)
    if not given:
        return None
    if len(given) > 1:
        raise RequestError(f"{at} has {' and '.join(sorted(given))}; an answer can have one form only.", param=at)
    ((kind, wanted),) = given.items()
    at = f"{at}.{kind}"
    if kind == "json":
        return Form(_schema_grammar(wanted, at), at)
    if kind == "json_object":
        if wanted is not True:
            raise RequestError(f"{at} must be true or false.", param=at)
        return Form(grammars.json_object(), at)
    if kind == "choice":
        return Form(grammars.choice(_choices(wanted, at)), at)
    if not isinstance(wanted, str) or not wanted:
        raise RequestError(f"{at} must be a string that is not empty.", param=at)
    _check_size(len(wanted), at)
    return Form(grammars.regex(wanted) if kind == "regex" else grammars.lark(wanted), at)


def the_one(*forms: Form | None) -> Form | None:
    """Of what several parameters ask for, all there may be."""
    asked = [form for form in forms if form is not None]
    if len(asked) > 1:
        raise RequestError(
            f"{asked[0].param} and {asked[1].param} both say what form the answer has; leave one of them out.",
            param=asked[1].param,
        )
    return asked[0] if asked else None


def _schema_grammar(schema: Any, at: str) -> str:
    """`schema`: an object, or JSON as text."""
    if isinstance(schema, str):
        _check_size(len(schema), at)
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise RequestError(f"{at} is a string that is not valid JSON.", param=at) from None
    if not isinstance(schema, dict | bool):
        raise RequestError(f"{at} must have a JSON schema, which is an object, not {shown(schema)}.", param=at)
    try:
        return grammars.json_schema(schema)
    except RequestError as e:
        raise RequestError(str(e), param=at) from None
    except UnicodeEncodeError:  # of a schema that is a string
        raise RequestError(f"{at} has half of a surrogate pair, which is not valid Unicode.", param=at) from None
    except (ValueError, RecursionError):
        raise RequestError(
            f"{at} has a JSON schema that cannot be written: it is nested too deeply.", param=at
        ) from None


def _choices(value: Any, at: str) -> list[str]:
    check_count(value if isinstance(value, list) else (), MAX_CHOICES, "texts", at)
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise RequestError(f"{at} must be a list of texts that are not empty.", param=at)
    _check_size(sum(map(len, value)), at)
    return value


def _check_size(size: int, at: str) -> None:
    """Before a grammar is written of it, which is no smaller."""
    if size > MAX_BYTES:
        raise RequestError(f"{at} has {size} characters, and at most {MAX_BYTES} are possible.", param=at)


def _only(value: dict[str, Any], known: set[str], at: str) -> None:
    for key in value:
        if key not in known:
            raise RequestError(
                f"{at}.{key[:100]} is not supported; leave it out.",
                param=f"{at}.{key}",
                code="unsupported_parameter",
            )
