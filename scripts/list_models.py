"""Write the page of supported architectures from the registry: `python scripts/list_models.py > docs/models.md`."""

from __future__ import annotations

from llmserve.models import Family, families

HEAD = """\
# Models

What config.json names in `architectures`, of which models, and what each was compared with: random checkpoints of a
few layers with the real names of weights, in float32, every prompt position and every cached step, on one rank and on
two; int8 and int4 engines of each with a float32 forward over the same rounded weights. A value in config.json that
changes the computation and is not implemented is an error of `llmserve build` that names it. This page is written by
`scripts/list_models.py`.

| architectures | models | compared with |
|---|---|---|"""


def page() -> str:
    architectures: dict[str, list[str]] = {}
    found: dict[str, Family] = {}
    for architecture, family in families().items():
        architectures.setdefault(family.name, []).append(f"`{architecture}`")
        found[family.name] = family
    rows = [f"| {', '.join(architectures[name])} | {f.models} | {f.checked} |" for name, f in sorted(found.items())]
    return "\n".join([HEAD, *rows])


if __name__ == "__main__":
    print(page())
