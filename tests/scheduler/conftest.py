"""`--hypothesis-profile=long`: fifty times as many random traces, for the night."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("long", max_examples=50 * settings.default.max_examples)
