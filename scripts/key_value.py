"""An argument type that scripts share: settings of an engine, as they stand in its config."""

from __future__ import annotations

import json
from typing import Any


def key_value(text: str) -> tuple[str, Any]:
    """`max_num_seqs=32` or `kv_cache_dtype=int8` → key and value, the value as JSON where it is that."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
