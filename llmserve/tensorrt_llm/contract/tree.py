"""A package's sources as names: where a name comes from through imports, and what a class has through its bases.

Knows neither the contract nor where the files lie: a folder, or a wheel.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from llmserve.errors import ConfigError
from llmserve.tensorrt_llm.contract.signatures import (
    KEYWORD_ONLY,
    Attribute,
    Call,
    Class,
    Definition,
    Import,
    Module,
    Parameter,
    read_module,
    taken,
)


class Files(Protocol):
    """Text by path, `tensorrt_llm/builder.py`."""

    def names(self) -> Iterable[str]: ...
    def text(self, name: str) -> str: ...


class Folder:
    """Files below a folder: a site-packages, or the contract's own."""

    def __init__(self, root: Path, package: str) -> None:
        self._root = root
        self._names = [p.relative_to(root).as_posix() for p in sorted((root / package).rglob("*")) if p.is_file()]

    def names(self) -> Iterable[str]:
        return self._names

    def text(self, name: str) -> str:
        return (self._root / name).read_text("utf-8", errors="replace")


class Wheel:
    """Files of a wheel, which is a zip; nothing is unpacked. Raises ConfigError where it is none."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as e:
            raise ConfigError(f"{path} cannot be read as a wheel ({e}).") from None

    def names(self) -> Iterable[str]:
        return self._zip.namelist()

    def text(self, name: str) -> str:
        return self._zip.read(name).decode("utf-8", errors="replace")


class Unread(Exception):
    """A module is compiled, without a .pyi beside it, or is no Python that this one can parse."""


@dataclass(frozen=True)
class Found:
    """A definition, and the module whose names it is written in."""

    definition: Definition
    module: Module


class Tree:
    """The modules of some files, read when asked for."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._names = set(files.names())
        self._folders = {str(parent) for name in self._names for parent in PurePosixPath(name).parents}
        self._compiled = {
            name.rsplit("/", 1)[0].replace("/", ".") + "." + name.rsplit("/", 1)[1].split(".")[0]
            for name in self._names
            if name.endswith((".so", ".pyd")) and "/" in name
        }
        self._modules: dict[str, Module | None] = {}

    def modules(self) -> Iterator[Module]:
        """All that can be read, in order of their names."""
        for name in sorted(self._names):
            if name.endswith((".py", ".pyi")):
                module = self.module(name.rsplit(".", 1)[0].removesuffix("/__init__").replace("/", "."))
                if module is not None:
                    yield module

    def module(self, name: str) -> Module | None:
        """None: there is none of that name. Raises Unread."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def find(self, module: str, name: str) -> Found | None:
        """What `from module import name` gives, wherever it is defined. Raises Unread."""
        return self._find(module, name, frozenset())

    def bases(self, found: Found) -> list[Found]:
        """A class and those it derives from, as far as these files go; nearest first. Raises Unread."""
        assert isinstance(found.definition, Class)
        chain = [found]
        for base in found.definition.bases:
            head, _, rest = base.partition(".")
            parent = self.find(found.module.name, head)
            if parent is not None and rest and isinstance(parent.definition, Import):
                parent = self.find(parent.definition.module, rest)
            if parent is not None and isinstance(parent.definition, Class) and parent.definition != found.definition:
                chain += [each for each in self.bases(parent) if each not in chain]
        return chain

    def calls(self, found: Found, method: str) -> tuple[Call, ...]:
        """The ways to call a class's method; of `__init__` also where fields make it. Empty: it has none."""
        chain = self.bases(found)
        for each in chain:
            assert isinstance(each.definition, Class)
            if method in each.definition.calls:
                return tuple(self._with_taken(call, each.module) for call in each.definition.calls[method])
            if method == "__init__" and (each.definition.fields or self._is_pydantic(chain)):
                return (self._made_of_fields(chain),)
        return ()

    def attributes(self, found: Found) -> dict[str, Attribute]:
        merged: dict[str, Attribute] = {}
        for each in reversed(self.bases(found)):
            assert isinstance(each.definition, Class)
            merged.update(each.definition.attributes)
        return merged

    def _read(self, name: str) -> Module | None:
        path = name.replace(".", "/")
        for suffix in (".pyi", ".py"):
            for candidate, package in ((path + suffix, False), (f"{path}/__init__{suffix}", True)):
                if candidate in self._names:
                    try:
                        return read_module(name, self._files.text(candidate), package=package)
                    except SyntaxError as e:
                        raise Unread(f"{candidate} is no Python that can be parsed here ({e.msg})") from None
        parent = next((each for each in (name, name.rpartition(".")[0]) if each in self._compiled), None)
        if parent is not None and parent.replace(".", "/") not in self._folders:
            raise Unread(f"{parent} is compiled, and no .pyi lies beside it")
        return None

    def _find(self, module: str, name: str, seen: frozenset[tuple[str, str]]) -> Found | None:
        if (module, name) in seen:
            return None
        seen |= {(module, name)}
        here = self.module(module)
        if here is None:
            return None
        definition = here.names.get(name)
        if isinstance(definition, Import):
            if definition.name is None:
                return Found(definition, here)
            if self._names_module(definition.module):
                return self._find(definition.module, definition.name, seen)
            return None
        if definition is not None:
            return Found(definition, here)
        for star in here.stars:
            if self._names_module(star) and (found := self._find(star, name, seen)) is not None:
                return found
        return None

    def _names_module(self, module: str) -> bool:
        """Whether it is one of these files' and not somebody else's package."""
        return module.split(".")[0] in self._folders

    def _with_taken(self, call: Call, module: Module) -> Call:
        """**kwargs are often handed on to what lies beside: a config, a converter."""
        if call.takes is None:
            return call
        folder = module.name.replace(".", "/").rpartition("/")[0]
        beside = [n for n in self._names if n.rpartition("/")[0] == folder and n.endswith(".py")]
        return replace(call, takes={**self._taken(tuple(sorted(beside))), **call.takes})

    def _taken(self, names: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in names:
            try:
                found.update(taken(ast.parse(self._files.text(name))))
            except SyntaxError as e:
                raise Unread(f"{name} is no Python that can be parsed here ({e.msg})") from None
        return found

    def _is_pydantic(self, chain: list[Found]) -> bool:
        return any(
            base.endswith("BaseModel")
            for each in chain
            if isinstance(each.definition, Class)
            for base in each.definition.bases
        )

    def _made_of_fields(self, chain: list[Found]) -> Call:
        parameters: dict[str, Parameter] = {}
        for each in reversed(chain):
            assert isinstance(each.definition, Class)
            for name, attribute in each.definition.attributes.items():
                if attribute.field and not name.startswith("_") and "ClassVar" not in attribute.annotation:
                    parameters[name] = Parameter(name, KEYWORD_ONLY, attribute.default, attribute.annotation)
        return Call(tuple(parameters.values()))
