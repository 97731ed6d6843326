"""Modules and classes out of the contract's stubs: calls bind to its signatures and types."""

from __future__ import annotations

import collections.abc
import datetime
import enum
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmserve.tensorrt_llm.contract import contract
from llmserve.tensorrt_llm.contract.signatures import Call, Class, Constant, Function, Import, Module
from llmserve.tensorrt_llm.contract.tree import Found, Tree

Behaviour = Callable[..., Any]
"""What a method does: called with the object (or class) and all parameters by name."""

_NAMES: dict[str, Any] = {
    "Any": Any,
    "Self": Any,
    "Sequence": Sequence,
    "PathLike": os.PathLike,
    "datetime": datetime,
    "enum": enum,
}


def generate(package: str, behaviours: Mapping[str, Behaviour], leave_out: Sequence[str]) -> None:
    """Puts the contract's modules into sys.modules. `behaviours`: by "module:Class.method" or "module:function"."""
    tree = contract()
    modules = [m for m in tree.modules() if not any(f"{m.name}.".startswith(f"{package}.{out}.") for out in leave_out)]
    names = {module.name for module in modules}
    made: dict[tuple[str, str], Any] = {}
    known = set(behaviours)
    for module in modules:
        here = sys.modules[package] if module.name == package else types.ModuleType(module.name, module.document)
        sys.modules[module.name] = here
        parent, _, child = module.name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, here)
        if any(name.startswith(module.name + ".") for name in names):
            here.__path__ = []  # type: ignore[attr-defined]
    for module in modules:
        for name in module.names:
            found = tree.find(module.name, name)
            if found is not None and found.module.name in names and not isinstance(found.definition, Import):
                setattr(sys.modules[module.name], name, _made(tree, found, name, behaviours, made, known))
    assert not [k for k in known if not any(k.split(":")[0].startswith(f"{package}.{o}") for o in leave_out)], known


def _made(
    tree: Tree, found: Found, name: str, behaviours: Mapping[str, Behaviour], made: dict[Any, Any], known: set[str]
) -> Any:
    definition, module = found.definition, found.module
    if isinstance(definition, Constant):
        return eval(definition.value, dict(_NAMES)) if definition.value else None
    assert isinstance(definition, Class | Function)
    key = (module.name, definition.name)
    if key not in made:
        namespace = _Namespace(tree, module, lambda each: _made(tree, each, "", behaviours, made, known))
        if isinstance(definition, Function):
            full = f"{module.name}:{definition.name}"
            known.discard(full)
            made[key] = _function(full, definition.calls, namespace, behaviours.get(full))
        elif any(base.startswith("enum.") for base in definition.bases):
            made[key] = enum.Enum(definition.name, {k: eval(v) for k, v in definition.members.items()})
        else:
            made[key] = _class(tree, found, namespace, behaviours, known)
    return made[key]


class _Namespace(dict[str, Any]):
    """What a stub's annotations and defaults may name: other classes of the contract are made when asked for."""

    def __init__(self, tree: Tree, module: Module, make: Callable[[Found], Any]) -> None:
        super().__init__(_NAMES)
        self._tree, self._module, self._make = tree, module, make

    def __missing__(self, name: str) -> Any:
        found = self._tree.find(self._module.name, name)
        if found is None or isinstance(found.definition, Import):
            raise KeyError(name)
        return self._make(found)

    def value(self, text: str) -> Any:
        return eval(text, {}, self)


def _class(
    tree: Tree, found: Found, namespace: _Namespace, behaviours: Mapping[str, Behaviour], known: set[str]
) -> type:
    definition = found.definition
    assert isinstance(definition, Class)
    bases = tuple(namespace[base] for base in definition.bases)
    attributes = tree.attributes(found)
    body: dict[str, Any] = {"__doc__": definition.document, "__module__": found.module.name}
    body.update(_attributes=attributes, _namespace=namespace)
    for method, calls in definition.calls.items():
        full = f"{found.module.name}:{definition.name}.{method}"
        known.discard(full)
        behaviour = behaviours.get(full)
        if behaviour is None and method == "__init__":
            behaviour = _keep_arguments
        function = _function(full, calls, namespace, behaviour, bound=True)
        body[method] = classmethod(function) if calls[0].of_class else function
    for name in definition.attributes:
        full = f"{found.module.name}:{definition.name}.{name}"
        if full in behaviours:
            known.discard(full)
            body[name] = property(behaviours[full])
    if not bases:
        body["__setattr__"] = _set_checked
    return type(definition.name, bases, body)


def _keep_arguments(self: Any, **arguments: Any) -> None:
    """What a constructor does that has no behaviour of its own."""
    for name, attribute in self._attributes.items():
        if attribute.default is not None:
            object.__setattr__(self, name, self._namespace.value(attribute.default))
    keep(self, arguments)


def keep(made: Any, values: Mapping[str, Any]) -> None:
    """Sets what the contract names; the rest under a name with `_`, where only the stand-in looks."""
    for name, value in values.items():
        object.__setattr__(made, name if name in made._attributes else f"_{name}", value)


def _set_checked(self: Any, name: str, value: Any) -> None:
    if not name.startswith("_"):
        attribute = self._attributes.get(name)
        if attribute is None or not attribute.settable:
            raise AttributeError(f"{type(self).__name__} has no attribute {name} that can be set, by the contract")
        if attribute.annotation and not _conforms(value, self._namespace.value(attribute.annotation)):
            raise TypeError(f"{type(self).__name__}.{name}: {value!r} is no {attribute.annotation}")
    object.__setattr__(self, name, value)


def _function(
    name: str, calls: Sequence[Call], namespace: _Namespace, behaviour: Behaviour | None, *, bound: bool = False
) -> Callable[..., Any]:
    signatures = [_signature(call) for call in calls]

    def function(*arguments: Any, **keywords: Any) -> Any:
        subject, arguments = (arguments[:1], arguments[1:]) if bound else ((), arguments)
        problems = []
        for signature in signatures:
            try:
                given = _bound(signature, namespace, arguments, keywords)
            except TypeError as e:
                problems.append(str(e))
                continue
            if behaviour is None:
                raise NotImplementedError(f"{name} stands in the contract, and the stand-in does not know what it does")
            return behaviour(*subject, **given)
        raise TypeError(f"{name}(): incompatible function arguments by the contract: {'; '.join(problems)}")

    function.__name__ = name.rsplit(".", 1)[-1]
    return function


def _signature(call: Call) -> inspect.Signature:
    """Defaults and annotations are still their text."""
    return inspect.Signature(
        [
            inspect.Parameter(
                each.name,
                inspect._ParameterKind(each.kind),
                default=inspect.Parameter.empty if each.default is None else each.default,
                annotation=each.annotation,
            )
            for each in call.parameters
        ]
    )


def _bound(
    signature: inspect.Signature, namespace: _Namespace, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Every parameter's value. Raises TypeError where names or types do not fit."""
    given = dict(signature.bind(*arguments, **keywords).arguments)
    for name, value in given.items():
        annotation = signature.parameters[name].annotation
        if annotation and not _conforms(value, namespace.value(annotation)):
            raise TypeError(f"{name}={value!r} is no {annotation}")
    defaults = {n: namespace.value(p.default) for n, p in signature.parameters.items() if n not in given}
    return {**defaults, **given}


def _conforms(value: Any, annotation: Any) -> bool:
    """As strict as nanobind: a float is no int, a bool neither, and a str no sequence."""
    if annotation is Any:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_conforms(value, each) for each in arguments)
    if origin in (list, collections.abc.Sequence):
        return isinstance(value, list | tuple) and all(_conforms(each, arguments[0]) for each in value)
    if origin is not None:
        return isinstance(value, origin)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, annotation)
