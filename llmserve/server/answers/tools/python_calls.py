"""Arguments of a tool as Python writes them, `city='Bonn', days=[1, 2]`: read, and as rules of a grammar.

A grammar's rules are made of the tool's JSON schema, as far as it can be kept to: what it has besides is refused by
its name. Values are written as `repr` does. What a string has to match and a number to lie between is left to the
library's JSON, whose strings and numbers Python reads alike.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmserve.errors import RequestError
from llmserve.grammar import MAX_BYTES
from llmserve.server.grammars import inline_schema, literal

MAX_DEPTH = 64
MOST = 10**15
"""Of a number that a schema leaves open on one side; beyond it not every integer is a number of JSON's readers."""

ANY = [
    r"""STRING: /'([^'\\\x00-\x1f\x7f]|\\['"\\nrt])*'|"([^"\\\x00-\x1f\x7f]|\\['"\\nrt])*"/""",
    r"INTEGER: /-?(0|[1-9][0-9]{0,99})/",
    r"NUMBER: /-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?/",
    'any: STRING | NUMBER | "True" | "False" | "None" | "[" (any (", " any)*)? "]" | "{" (pair (", " pair)*)? "}"',
    'pair: STRING ": " any',
]
"""What every such grammar has once. Numbers have no exponent: Python reads 1e999 as infinity, which no JSON has."""

TYPES = {"string": str, "integer": int, "number": int | float, "boolean": bool, "null": type(None), "array": list,
         "object": dict}  # fmt: skip
OF_TYPE = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
"""Keywords that only say something of values of one type."""

SAYS_NOTHING = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment",
    "$defs", "definitions",
}  # fmt: skip
"""Of what a value may be."""


def read_keywords(call: str) -> dict[str, Any] | None:
    """Of one call of a function; None where it is anything else, or an argument is not a literal by its name."""
    try:
        read = ast.parse(call, mode="eval").body
        if not isinstance(read, ast.Call) or read.args:
            return None
        named = {each.arg: each.value for each in read.keywords if each.arg is not None}
        if len(named) < len(read.keywords):  # **
            return None
        return {name: ast.literal_eval(value) for name, value in named.items()}
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None


def keyword_rules(schema: Mapping[str, Any], name: str, at: str) -> list[str]:
    """Rules by which `name` is arguments, as `schema` has them; they go with ANY. `at`: where it stands in a request.

    RequestError where it cannot be kept to.
    """
    return _Rules(schema, name).of_arguments(at)


class _Item(NamedTuple):
    """Of a list of arguments, or of pairs in a dict: expressions of a grammar."""

    key: str
    value: str
    is_required: bool


class _Rules:
    def __init__(self, schema: Mapping[str, Any], name: str) -> None:
        self._root = schema
        self._name = name
        self._rules: list[str] = []
        self._size = 0
        self._references: dict[str, str] = {}  # rules by what they are of

    def of_arguments(self, at: str) -> list[str]:
        if self._root.get("type", "object") != "object":
            raise _refused(at, "another type than object")
        self._check(self._root, at, {"type", *OF_TYPE["object"]}, 0)
        items = []
        for key, value, required in self._properties(self._root, at, 0):
            if read_keywords(f"f({key}=0)") != {key: 0}:
                raise _refused(at, f"{key!r:.100}, which is no name of an argument in Python,")
            items.append(_Item(literal(f"{key}="), value, required))
        return [f"{self._name}: {self._in_order(items)}", *self._rules]

    def _value(self, schema: Any, at: str, depth: int) -> str:
        """An expression of a grammar."""
        if schema is True or schema == {}:
            return "any"
        if not isinstance(schema, Mapping):
            raise _refused(at, f"{schema!r:.100} as a schema")
        if "$ref" in schema:
            self._check(schema, at, {"$ref"}, depth)
            return self._reference(schema["$ref"], at, depth)
        if "anyOf" in schema:
            self._check(schema, at, {"anyOf"}, depth)
            ways = _list(schema["anyOf"], f"{at}.anyOf")
            return self._rule(" | ".join(self._value(way, f"{at}.anyOf.{i}", depth + 1) for i, way in enumerate(ways)))
        types = self._types(schema, at)
        if "const" in schema or "enum" in schema:
            self._check(schema, at, {"type", "const", "enum"}, depth)
            return self._one_of(schema, types, at)
        self._check(schema, at, {"type"}.union(*OF_TYPE.values()), depth)
        if not types:
            return "any"
        return self._rule(" | ".join(self._of_type(kind, schema, at, depth) for kind in types))

    def _check(self, schema: Mapping[str, Any], at: str, known: set[str], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _refused(at, "a schema nested too deeply")
        for keyword in schema:
            if keyword not in known and keyword not in SAYS_NOTHING:
                raise _refused(at, f"{keyword!r:.100}")

    def _types(self, schema: Mapping[str, Any], at: str) -> list[str]:
        """Those that are named; otherwise the one that its keywords are about, if there are any."""
        if "type" not in schema:
            return [kind for kind, keywords in OF_TYPE.items() if keywords & schema.keys()][:1]
        named = schema["type"]
        types = named if isinstance(named, list) else [named]
        if not types or not all(isinstance(kind, str) and kind in TYPES for kind in types):
            raise _refused(at, f"type {named!r:.100}")
        return types

    def _of_type(self, kind: str, schema: Mapping[str, Any], at: str, depth: int) -> str:
        asked = {keyword: each for keyword, each in schema.items() if keyword in OF_TYPE.get(_family(kind), ())}
        match kind:
            case "boolean":
                return '"True" | "False"'
            case "null":
                return '"None"'
            case "array":
                item = self._value(asked.get("items", True), f"{at}.items", depth + 1)
                return f'"[" {_repeated(item, asked.get("minItems", 0), asked.get("maxItems"), at)} "]"'
            case "object" if asked.get("properties") or asked.get("required"):
                items = [_Item(literal(f"{_written(key, at)}: "), value, required)
                         for key, value, required in self._properties(asked, at, depth)]  # fmt: skip
                return f'"{{" {self._in_order(items)} "}}"'
            case "object":
                if (more := asked.get("additionalProperties", True)) is False:
                    return '"{}"'
                pair = self._rule(f'STRING ": " {self._value(more, f"{at}.additionalProperties", depth + 1)}')
                return f'"{{" ({pair} (", " {pair})*)? "}}"'
            case _ if asked:
                return self._rule(inline_schema({"type": kind, **asked, **_sides(kind, asked)}))
            case _:
                return kind.upper()

    def _one_of(self, schema: Mapping[str, Any], types: Sequence[str], at: str) -> str:
        values = _list(schema["enum"], f"{at}.enum") if "enum" in schema else [schema["const"]]
        if "const" in schema:
            values = [value for value in values if value == schema["const"]]
        kept = [value for value in values if not types or any(_is_of(value, kind) for kind in types)]
        if not kept:
            raise _refused(at, "no value that could be")
        return self._rule(" | ".join(literal(_written(value, at)) for value in kept))

    def _properties(self, schema: Mapping[str, Any], at: str, depth: int) -> list[tuple[str, str, bool]]:
        """Name, value, and whether it is required. Others are not written, though the schema may allow them."""
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _refused(at, "properties that are no object, or required that is no list")
        more = schema.get("additionalProperties", True)
        named = {**properties, **{key: more for key in required if isinstance(key, str) and key not in properties}}
        wanted = frozenset(key for key in required if isinstance(key, str))
        return [
            (key, self._value(value, f"{at}.{key:.100}", depth + 1), key in wanted)
            for key, value in named.items()
            if value is not False or key in wanted
        ]

    def _in_order(self, items: Sequence[_Item]) -> str:
        """With commas between those that are there; a rule is what may come behind one."""
        firsts: list[str] = []  # what may be there where none is before it
        behind = ""
        for item in reversed(items):
            written = f"{item.key} {item.value}"
            firsts = [f"{written} {behind}", *([] if item.is_required else firsts)]
            further = f'", " {written}' if item.is_required else f'(", " {written})?'
            behind = self._rule(f"{further} {behind}")
        if not items:
            return ""
        return f"({' | '.join(firsts)}){'' if any(item.is_required for item in items) else '?'}"

    def _reference(self, pointer: Any, at: str, depth: int) -> str:
        schema = self._found(pointer, at)
        if pointer not in self._references:
            rule = self._references[pointer] = f"{self._name}_ref_{len(self._references)}"
            self._add(f"{rule}: {self._value(schema, at, depth + 1)}")
        return self._references[pointer]

    def _found(self, pointer: Any, at: str) -> Any:
        schema: Any = self._root
        for step in pointer.removeprefix("#").split("/")[1:] if isinstance(pointer, str) else ():
            step = step.replace("~1", "/").replace("~0", "~")
            schema = schema.get(step) if isinstance(schema, Mapping) else None
        if not isinstance(pointer, str) or not pointer.startswith("#") or schema is None:
            raise _refused(at, f"$ref {pointer!r:.100}")
        return schema

    def _rule(self, body: str) -> str:
        """The name of a new one."""
        name = f"{self._name}_{len(self._rules)}"
        self._add(f"{name}: {body}")
        return name

    def _add(self, rule: str) -> None:
        self._rules.append(rule)
        self._size += len(rule)
        if self._size > MAX_BYTES:
            raise RequestError(
                f"tools has a schema that makes a grammar of more than {MAX_BYTES} characters; shorten it.",
                param="tools",
            )


def _sides(kind: str, asked: Mapping[str, Any]) -> dict[str, int]:
    """What a number is to lie between where only one side, or none, is said: of more digits Python reads none."""
    if _family(kind) != "number":
        return {}
    least, most = ((asked.get(key), asked.get(f"exclusive{key.title()}")) for key in ("minimum", "maximum"))
    if any(isinstance(each, int | float) and abs(each) >= MOST for each in (*least, *most)):
        return {}
    sides = {"minimum": -MOST, "maximum": MOST}
    return {key: side for (key, side), said in zip(sides.items(), (least, most), strict=True) if said == (None, None)}


def _family(kind: str) -> str:
    return "number" if kind == "integer" else kind


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and value.is_integer() and kind == "integer":
        return True
    return isinstance(value, TYPES[kind])


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _refused(at, f"{value!r:.100}, which is no list with something in it,")
    return value


def _written(value: Any, at: str) -> str:
    """As Python's literal."""
    text = repr(value)
    if len(text) > MAX_BYTES or read_keywords(f"f(x={text})") != {"x": value}:
        raise _refused(at, f"{text:.100} as a value")
    return text


def _repeated(item: str, least: Any, most: Any, at: str) -> str:
    if not all(isinstance(each, int) and 0 <= each <= 10_000 for each in (least, 0 if most is None else most)):
        raise _refused(at, "minItems or maxItems that is no number up to 10000")
    if most is not None and least > most:
        raise _refused(at, f"minItems {least} and maxItems {most}")
    if most == 0:
        return ""
    further = f'(", " {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}'
    return f"({item} {further}){'' if least else '?'}"


def _refused(at: str, what: str) -> RequestError:
    return RequestError(
        f"{at} has {what} and this model's calls of tools, which are Python, cannot be kept to that; leave it out, or "
        "choose tool_choice 'auto' without strict.",
        param="tools",
    )
