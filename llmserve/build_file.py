"""The files of `build_configs/`: settings of a build, or several named sets of them for one checkpoint.

    quant: int8                      checkpoint: org/name        # whose they are
    tp_size: 2                       dtype: bfloat16             # what all variants have
                                     variants:
                                       int4:
                                         quant: int4
                                         fits: {L4: 32768}       # GPU: tokens of the longest sequence it holds at least

What settings mean is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmserve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Variant:
    settings: dict[str, Any]  # by the names of the command line's flags
    fits: dict[str, int]  # GPU → tokens of a sequence


@dataclass(frozen=True, slots=True)
class BuildFile:
    checkpoint: str | None
    variants: dict[str, Variant]  # by name; a file without any has one, called ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a command was given with --config and --variant."""

    path: Path | None
    checkpoint: str | None  # that the file is for
    settings: dict[str, Any]


def read_chosen(path: Path | None, variant: str | None) -> Chosen:
    """A file's variant; of no file, no settings. Raises ConfigError in one sentence."""
    if path is None:
        if variant is not None:
            raise ConfigError(f"--variant {variant} is of a file of settings; give that with --config.")
        return Chosen(None, None, {})
    file = read_build_file(path)
    return Chosen(path, file.checkpoint, _settings(path, file.variants, variant))


def which_checkpoint(given: str | None, chosen: Chosen) -> tuple[str, str | None]:
    """The checkpoint that is meant, and a line for people where the file is for one of another name.

    That is no error: a folder may be called anything. ConfigError where neither names one.
    """
    if given is None and chosen.checkpoint is None:
        nor = f", as {chosen.path} names none either" if chosen.path else ""
        raise ConfigError(f"no CHECKPOINT was given{nor}; give a folder, a model of the hub (`org/name`) or `demo`.")
    if given is None or chosen.checkpoint is None:
        return given or chosen.checkpoint or "", None
    if _name(given) == _name(chosen.checkpoint):
        return given, None
    return given, f"{chosen.path} is for {chosen.checkpoint}, and its settings are used for {given}."


def _name(checkpoint: str) -> str:
    return checkpoint.rstrip("/").rpartition("/")[2].lower()


def _settings(path: Path, variants: dict[str, Variant], variant: str | None) -> dict[str, Any]:
    names = ", ".join(variants)
    if variant is None and "" in variants:
        return variants[""].settings
    if variant is None:
        raise ConfigError(f"{path} has the variants {names}; choose one with --variant.")
    if variant not in variants:
        has = f"has the variants {names}" if names else "has none"
        raise ConfigError(f"{path} has no variant {variant!r:.100}, it {has}.")
    return variants[variant].settings


def read_build_file(path: Path) -> BuildFile:
    """Raises ConfigError in one sentence."""
    data = _read_yaml(path)
    checkpoint = data.pop("checkpoint", None)
    if checkpoint is not None and not isinstance(checkpoint, str):
        raise ConfigError(f"{path} says checkpoint: {checkpoint!r:.100}; it has to be a folder or a name of the hub.")
    if "variants" not in data:
        return BuildFile(checkpoint, {"": Variant(data, {})})
    variants = data.pop("variants")
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{path} has variants without names; write them like `int8: {{quant: int8}}`.")
    return BuildFile(checkpoint, {str(name): _variant(path, name, data, own) for name, own in variants.items()})


def _variant(path: Path, name: object, common: dict[str, Any], own: object) -> Variant:
    if not isinstance(own, dict):
        raise ConfigError(f"{path}'s variant {name!r:.100} holds no settings; write lines like `quant: int8`.")
    settings = {**common, **own}
    fits = settings.pop("fits", {})
    if not isinstance(fits, dict) or not all(type(tokens) is int and tokens > 0 for tokens in fits.values()):
        raise ConfigError(f"{path}'s variant {name!r:.100} says fits: {fits!r:.100}; write it like {{L4: 32768}}.")
    return Variant(settings, {str(gpu): tokens for gpu, tokens in fits.items()})


class _Loader(yaml.SafeLoader):
    """Of a key that is there twice YAML's library takes the last, in silence; YAML itself forbids it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(written)) < len(written):
            twice = next(key for _, key in written if [each for _, each in written].count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{twice[:100]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text("utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; give --config a file like those of build_configs/.") from None
    except OSError as e:
        raise ConfigError(f"{path} cannot be read: {e.strerror or e}.") from None
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        raise ConfigError(f"{path} cannot be read as YAML ({' '.join(str(e).split())}).") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no settings; write lines like `quant: int8`.")
    return data
