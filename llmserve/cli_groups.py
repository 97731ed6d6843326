"""Options of commands as dataclasses: each is declared once, as a field, and a command gets them as one value.

typer makes an option of every parameter of a function. `grouped` shows it a function that has the fields of a group as
parameters in place of the group. What the options mean is not known here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from typer.core import TyperCommand


@dataclass(frozen=True)
class OptionGroup:
    """Base of groups. A field is `name: Annotated[type, typer.Option(help="…")] = default`."""

    SECTION: ClassVar[str] = "Options"
    """The heading in a command's help."""

    def values(self) -> dict[str, Any]:
        """By name, of a choice its value."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its groups as parameters. A name that two of them share is a ValueError."""
    groups: dict[str, type[OptionGroup]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, OptionGroup):
            groups[parameter.name] = parameter.annotation
            parameters += _parameters(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def ungrouped(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **made)

    del ungrouped.__wrapped__  # or its signature would be shown
    ungrouped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    ungrouped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return ungrouped


def _parameters(group: type[OptionGroup]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, declared = get_args(hints[field.name])
        declared = copy(declared)
        declared.rich_help_panel = group.SECTION
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=Annotated[kind, declared],
        )


class SectionedCommand(TyperCommand):
    """Its help has a section for each group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], OptionGroup.SECTION: []}
        for parameter in self.get_params(ctx):
            if (line := parameter.get_help_record(ctx)) is not None:
                of_group = getattr(parameter, "rich_help_panel", None) or OptionGroup.SECTION
                title = "Arguments" if parameter.param_type_name == "argument" else of_group
                sections.setdefault(title, []).append(line)
        for title, lines in sections.items():
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)
