"""What a Python source or type stub defines, read from its text: classes, their attributes and calls, with defaults.

Knows no TensorRT-LLM and imports nothing of what it reads. The values below are one form for a `def`, a dataclass, a
pydantic model and nanobind's stubs, so that one can be compared with the other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter as Inspect

POSITIONAL_ONLY = Inspect.POSITIONAL_ONLY
EITHER = Inspect.POSITIONAL_OR_KEYWORD
KEYWORD_ONLY = Inspect.KEYWORD_ONLY


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: int
    """POSITIONAL_ONLY, EITHER or KEYWORD_ONLY."""
    default: str | None
    """As it is written; None: the parameter has to be given. `...`: there is one, and the text does not say which."""
    annotation: str = ""


@dataclass(frozen=True)
class Call:
    """One way to call something; `self` and `cls` are not among the parameters."""

    parameters: tuple[Parameter, ...]
    takes: Mapping[str, str] | None = None
    """Names taken out of **kwargs, with their defaults; None: there is no **kwargs."""
    of_class: bool = False


@dataclass(frozen=True)
class Attribute:
    annotation: str
    default: str | None
    settable: bool = True
    field: bool = False
    """Annotated in the class: a constructor may be made of it."""


@dataclass(frozen=True)
class Class:
    name: str
    bases: tuple[str, ...]
    document: str = ""
    calls: Mapping[str, tuple[Call, ...]] = field(default_factory=dict)
    """Method → the ways to call it (more than one: overloads)."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)
    """Name → value of what is assigned without annotation: the members of an enumeration."""
    fields: str = ""
    """"dataclass": the constructor takes the annotated attributes. "": it does where a base says so (pydantic)."""


@dataclass(frozen=True)
class Function:
    name: str
    calls: tuple[Call, ...]
    document: str = ""


@dataclass(frozen=True)
class Constant:
    value: str | None


@dataclass(frozen=True)
class Import:
    module: str
    """Absolute."""
    name: str | None
    """None: the module itself."""
    exported: bool = False
    """`import x as x`: in a stub, x is part of what the module offers."""


Definition = Class | Function | Constant | Import


@dataclass(frozen=True)
class Module:
    name: str
    document: str
    names: Mapping[str, Definition]
    stars: tuple[str, ...]
    """Modules of which all names are imported."""


def read_module(name: str, text: str, *, package: bool) -> Module:
    """Of the source of module `name`. `package`: it is an __init__. Raises SyntaxError."""
    tree = ast.parse(text)
    names: dict[str, Definition] = {}
    stars: list[str] = []
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef):
            names[node.name] = _class(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            before = names.get(node.name)
            others = before.calls if isinstance(before, Function) and _decorated(node, "overload") else ()
            names[node.name] = Function(node.name, (*others, _call(node, 0)), ast.get_docstring(node) or "")
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(name, node, package)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(module)
                else:
                    names[alias.asname or alias.name] = Import(module, alias.name, alias.asname == alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    names[alias.asname] = Import(alias.name, None)
        else:
            names.update({key: Constant(value) for key, value in _assigned(node)})
    return Module(name, ast.get_docstring(tree) or "", names, tuple(stars))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Also those under `if` and `try` of a module: either branch may be the one that runs."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.orelse + node.body)
        elif isinstance(node, ast.Try):
            yield from _statements([s for h in node.handlers for s in h.body] + node.body + node.orelse)
        else:
            yield node


def _absolute(module: str, node: ast.ImportFrom, package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = module.split(".")
    up = node.level - 1 if package else node.level
    kept = parents[: len(parents) - up]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _assigned(node: ast.stmt) -> Iterator[tuple[str, str | None]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, ast.unparse(node.value)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, ast.unparse(node.value) if node.value else None


def _decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[str]:
    for each in node.decorator_list:
        yield ast.unparse(each.func if isinstance(each, ast.Call) else each)


def _decorated(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, name: str) -> bool:
    return any(each.split(".")[-1] == name for each in _decorators(node))


def _class(node: ast.ClassDef) -> Class:
    calls: dict[str, tuple[Call, ...]] = {}
    attributes: dict[str, Attribute] = {}
    members: dict[str, str] = {}
    hidden = any(keyword.arg == "metaclass" for keyword in node.keywords)
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            if _decorated(each, "property"):
                attributes[each.name] = Attribute(ast.unparse(each.returns) if each.returns else "", None, False)
            elif _decorated(each, "setter"):
                old = attributes.get(each.name)
                attributes[each.name] = Attribute(old.annotation if old else "", old.default if old else None)
            else:
                others = calls.get(each.name, ()) if _decorated(each, "overload") else ()
                calls[each.name] = (*others, _call(each, 0 if _decorated(each, "staticmethod") else 1))
                if each.name == "__init__":
                    attributes = {**_set_on_self(each), **attributes}
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            name = each.target.id.lstrip("_") if hidden else each.target.id  # a metaclass may make properties of _names
            attributes[name] = Attribute(ast.unparse(each.annotation), _field_default(each.value), field=True)
        elif isinstance(each, ast.Assign):
            members.update({key: value or "" for key, value in _assigned(each)})
    return Class(
        name=node.name,
        bases=tuple(ast.unparse(base) for base in node.bases),
        document=ast.get_docstring(node) or "",
        calls=calls,
        attributes=attributes,
        members=members,
        fields="dataclass" if _decorated(node, "dataclass") else "",
    )


def _set_on_self(init: ast.FunctionDef) -> dict[str, Attribute]:
    targets = [t for n in ast.walk(init) if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in ast.walk(init) if isinstance(n, ast.AnnAssign)]
    return {
        target.attr: Attribute("", None)
        for target in targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    }


def _field_default(value: ast.expr | None) -> str | None:
    """Of `x: T = value`, where value may be a dataclass's or pydantic's `field(default=…)`."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in ("field", "Field")):
        return ast.unparse(value) if value else None
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    if "default_factory" in given:
        return f"{ast.unparse(given['default_factory'])}()"
    default = given.get("default", value.args[0] if value.args else None)
    required = default is None or (isinstance(default, ast.Constant) and default.value is ...)
    return None if required else ast.unparse(default)  # type: ignore[arg-type]


def _call(node: ast.FunctionDef | ast.AsyncFunctionDef, bound: int) -> Call:
    """`bound`: how many parameters are given by Python itself."""
    plain = [*node.args.posonlyargs, *node.args.args]
    defaults = [*([None] * (len(plain) - len(node.args.defaults))), *node.args.defaults]
    parameters = [
        _parameter(each, POSITIONAL_ONLY if i < len(node.args.posonlyargs) else EITHER, default)
        for i, (each, default) in enumerate(zip(plain, defaults, strict=True))
    ]
    keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    parameters += [_parameter(each, KEYWORD_ONLY, default) for each, default in keywords]
    takes = None
    if node.args.kwarg:
        takes = taken(node, node.args.kwarg.arg)
    return Call(tuple(parameters[bound:]), takes, _decorated(node, "classmethod"))


def _parameter(node: ast.arg, kind: int, default: ast.expr | None) -> Parameter:
    annotation = ast.unparse(node.annotation) if node.annotation else ""
    return Parameter(node.arg, kind, ast.unparse(default) if default else None, annotation)


def taken(node: ast.AST, mapping: str = "kwargs") -> dict[str, str]:
    """Names that code takes by `mapping.pop("name", default)` or `.get`, with their defaults."""
    found: dict[str, str] = {}
    for each in ast.walk(node):
        if (
            isinstance(each, ast.Call)
            and isinstance(each.func, ast.Attribute)
            and each.func.attr in ("pop", "get")
            and isinstance(each.func.value, ast.Name)
            and each.func.value.id == mapping
            and each.args
            and isinstance(each.args[0], ast.Constant)
        ):
            found[str(each.args[0].value)] = ast.unparse(each.args[1]) if len(each.args) > 1 else "None"
    return found
