"""What bodies have in common that ask for no answer: a parameter they do not have is refused by its name."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from llmserve.server.protocol.unsupported import WITHOUT_EFFECT, unknown_parameter


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    ACCEPTED: ClassVar[frozenset[str]] = frozenset()
    """What may be there besides its fields, and changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name in data:
            if name not in cls.model_fields and name not in cls.ACCEPTED:
                raise unknown_parameter(name)
        return {name: value for name, value in data.items() if name in cls.model_fields}


class Body(Strict):
    """Of an endpoint beside OpenAI's."""

    ACCEPTED = WITHOUT_EFFECT

    model: str | None = None  # None: the one that is served
