"""What a TensorRT-LLM has otherwise than the contract says, by its sources and stubs alone: nothing of it is imported.

Of the real one only what the contract names is looked at; what it has besides is none of our business.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmserve.errors import ConfigError
from llmserve.tensorrt_llm.contract import COMPILED, VERSION, contract, source
from llmserve.tensorrt_llm.contract.signatures import EITHER, KEYWORD_ONLY, Call, Class, Constant, Function, Import
from llmserve.tensorrt_llm.contract.tree import Files, Folder, Found, Tree, Unread, Wheel

PACKAGE = "tensorrt_llm"


@dataclass(frozen=True)
class Difference:
    """`name` is dotted, from the package on; `what` is half a sentence about it."""

    name: str
    what: str
    source: str
    """Where the contract has it from."""


@dataclass(frozen=True)
class Findings:
    differences: tuple[Difference, ...]
    unread: tuple[Difference, ...]
    """What the contract names and these files cannot tell."""
    names: int
    """How many names were looked for."""


def verify(files: Files) -> Findings:
    """Compares the `tensorrt_llm` in these files with the contract. Raises ConfigError where there is none."""
    ours, theirs = contract(), Tree(files)
    if theirs.module(PACKAGE) is None:
        raise ConfigError(f"no {PACKAGE} is there; give the wheel itself, or the folder that {PACKAGE}/ lies in.")
    differences: list[Difference] = []
    unread: list[Difference] = []
    names = 0
    for module in ours.modules():
        if not module.names:
            continue
        if problem := _whole_module(theirs, module.name):
            what, readable = problem
            names += 1
            (differences if readable else unread).append(Difference(module.name, what, source(module.document)))
            continue
        for name, definition in module.names.items():
            found = ours.find(module.name, name)
            if found is None or (isinstance(definition, Import) and not definition.exported):
                continue  # what a stub's annotations are made of
            names += 1
            full = f"{module.name}.{name}"
            document = getattr(found.definition, "document", "")
            origin = source(document, found.module.document)
            try:
                real = theirs.find(module.name, name)
                problems = list(_compare(ours, found, theirs, real, whole=not isinstance(definition, Import)))
            except Unread as e:
                unread.append(Difference(full, f"cannot be read here: {e}", origin))
                continue
            for at, what, readable in problems:
                (differences if readable else unread).append(Difference(full + at, what, origin))
    return Findings(tuple(differences), tuple(unread), names)


def _whole_module(theirs: Tree, name: str) -> tuple[str, bool] | None:
    """What is wrong with a module as such: that it is missing, or cannot be read."""
    try:
        if theirs.module(name) is not None:
            return None
        described = not name.startswith(COMPILED) or theirs.module(COMPILED) is not None
    except Unread as e:
        return f"cannot be read here: {e}", False
    return ("is missing", True) if described else ("cannot be read here: this is no wheel, but a source tree", False)


Problem = tuple[str, str, bool]
"""Where in a name, what, and whether it could be read (else it is a doubt and no difference)."""


def _compare(ours: Tree, found: Found, theirs: Tree, real: Found | None, *, whole: bool) -> Iterator[Problem]:
    """`whole`: not only that it is there (another module of the contract compares it)."""
    if real is None:
        yield "", "is missing", True
    elif not whole:
        return
    elif isinstance(found.definition, Constant):
        value = real.definition.value if isinstance(real.definition, Constant) else None
        if value is None:
            yield "", "is set when it runs", False
        elif not _same(found.definition.value, value):
            yield "", f"is {value}, not {found.definition.value}", True
    elif isinstance(found.definition, Function):
        if isinstance(real.definition, Function):
            for problem in _calls(found.definition.calls, real.definition.calls):
                yield "", *problem
        else:
            yield "", "is no function", True
    elif not isinstance(real.definition, Class):
        yield "", "is no class", True
    else:
        yield from _class(ours, found, theirs, real)


def _class(ours: Tree, found: Found, theirs: Tree, real: Found) -> Iterator[Problem]:
    assert isinstance(found.definition, Class)
    chain = [each.definition for each in theirs.bases(real)]
    members = {name for each in chain if isinstance(each, Class) for name in each.members}
    attributes = theirs.attributes(real)
    for name in found.definition.members:
        if name not in members | attributes.keys():
            yield f".{name}", "is missing", True
    for name, attribute in found.definition.attributes.items():
        there = attributes.get(name)
        if there is None and name not in members:
            yield f".{name}", "is missing", True
        elif there is not None and attribute.settable and not there.settable:
            yield f".{name}", "cannot be set", True
        elif there is not None and attribute.default is not None and not _same(attribute.default, there.default):
            yield f".{name}", f"is {there.default or 'not set'} by default, not {attribute.default}", True
    for method, calls in found.definition.calls.items():
        theirs_calls = theirs.calls(real, method)
        where = "" if method == "__init__" else f".{method}"
        if not theirs_calls:
            if method != "__init__" or any(each.parameters for each in calls):
                yield where, "has no constructor" if method == "__init__" else "is missing", True
            continue
        for what, readable in _calls(calls, theirs_calls):
            yield where, what, readable
        if calls[0].of_class and not theirs_calls[0].of_class:
            yield where, "is no class method", True


def _calls(ours: tuple[Call, ...], theirs: tuple[Call, ...]) -> Iterator[tuple[str, bool]]:
    """Each of our ways to call has to be one of theirs; of several that are not, the nearest is told of."""
    for call in ours:
        yield from min((list(_call(call, other)) for other in theirs), key=len)


def _call(ours: Call, theirs: Call) -> Iterator[tuple[str, bool]]:
    there = {each.name: each for each in theirs.parameters}
    places = [each.name for each in theirs.parameters if each.kind != KEYWORD_ONLY]
    for place, each in enumerate(ours.parameters):
        what = f"parameter {each.name}"
        other = there.get(each.name)
        if other is None:
            if theirs.takes is None:
                yield f"has no {what}", True
            elif each.name not in theirs.takes:
                yield f"takes {what}, if at all, out of **kwargs elsewhere", False
            elif not _same(each.default, theirs.takes[each.name]):
                yield f"has {theirs.takes[each.name]} as default of {what}, not {each.default}", True
            continue
        if each.kind == EITHER and (each.name not in places or places.index(each.name) != place):
            yield f"has {what} at another place, or by keyword only", True
        if other.kind not in (EITHER, KEYWORD_ONLY):
            yield f"does not take {what} by keyword", True
        if each.default is not None and other.default is None:
            yield f"requires {what}, which has the default {each.default} in the contract", True
        elif each.default is not None and not _same(each.default, other.default):
            yield f"has {other.default} as default of {what}, not {each.default}", True
    for name, other in there.items():
        if other.default is None and name not in {each.name for each in ours.parameters}:
            yield f"requires a parameter {name} that the contract does not have", True


def _same(ours: str | None, theirs: str | None) -> bool:
    """Whether two defaults mean the same. One that a stub does not tell (`...`) may."""
    if ours == theirs or theirs == "...":
        return True
    if ours is None or theirs is None:
        return False
    try:
        return bool(ast.literal_eval(ours) == ast.literal_eval(theirs))
    except ValueError:
        return _tail(ours) == _tail(theirs)


def _tail(text: str) -> str:
    """`a.b.Enum.MEMBER` → `Enum.MEMBER`, and `a.b.Config()` → `Config()`: the same thing by another path."""
    head, paren, rest = text.partition("(")
    parts = head.split(".")
    return ".".join(parts[-1:] if paren else parts[-2:]) + paren + rest


def print_findings(wheel: Path | None, site_packages: Path | None) -> int:
    """A line each, and a sum. 0: nothing differs. 1: something does. 3: nothing, of what could be read."""
    if (wheel is None) == (site_packages is None):
        raise ConfigError("give either --wheel FILE or --site-packages DIR.")
    if wheel is not None:
        findings = verify(Wheel(wheel))
    else:
        assert site_packages is not None
        findings = verify(Folder(site_packages, PACKAGE))
    for each in (*findings.differences, *findings.unread):
        print(f"{each.name} {each.what}\n    contract: {each.source}")
    print(
        f"{findings.names} names of TensorRT-LLM {VERSION} looked for: {len(findings.differences)} differences, "
        f"{len(findings.unread)} that cannot be read here."
    )
    return 1 if findings.differences else 3 if findings.unread else 0
