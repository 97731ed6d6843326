"""Carry out docker/Dockerfile.cpu without a Docker engine, and serve with what comes of it.

    apt-get install mmdebstrap iproute2
    sudo .venv/bin/python scripts/try_dockerfile.py --work DIR --build-arg TORCH_INDEX=URL

Every FROM, RUN, COPY, ENV, USER, WORKDIR, ENTRYPOINT, CMD and HEALTHCHECK of the file is carried out as it stands: the
base image is made as Debian makes it (the suite's essential packages), RUN steps have it for their root and namespaces
of their own, COPY sees what .dockerignore allows. Then the embedded demo model is built for two ranks and served by the
image's own ENTRYPOINT and CMD as compose.yaml would have it: as PID 1 and the image's user, without capabilities, on a
read-only root, with no network but loopback. The image's HEALTHCHECK has to fail before and to succeed after loading, a
chat has to be answered, and SIGTERM during a stream has to finish the stream and exit 0.

With --hosts, the `hosts` stage is made, too, and docker/k8s/hosts.yaml's two containers are run on two hosts that are
network namespaces (`container.two_hosts`).

What this is not: Docker's own reading of the file, its layers, seccomp profile and cgroups. Prints each step with its
time; exit code 1 and a sentence if something does not hold. As `apt-get`, `pip` and the compiler take the time they
take, it is no part of the test suite.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.container.image import Builder  # noqa: E402
from scripts.container.one_host import serve_and_ask  # noqa: E402
from scripts.container.recipe import RecipeError, needed, read_stages  # noqa: E402
from scripts.container.two_hosts import serve_over_hosts  # noqa: E402


def main() -> int:
    options = _options()
    build_args = _pairs(options.build_arg)
    builder = Builder(
        context=ROOT,
        work=options.work.resolve() / "stages",
        build_args=build_args,
        help_env=_pairs(options.env),
        help_binds=tuple(options.bind),
        say=lambda line: print(line, flush=True),
        reuse=options.reuse,
    )
    builder.work.mkdir(parents=True, exist_ok=True)
    try:
        stages = read_stages(ROOT / "docker" / "Dockerfile.cpu", build_args)
        image = builder.build(needed(stages, "hosts" if options.hosts else "server"))
        holds = serve_over_hosts if options.hosts else serve_and_ask
        holds(image, options.work.resolve())
    except (RecipeError, AssertionError, TimeoutError) as e:
        print(f"try_dockerfile: {e}", file=sys.stderr)
        return 1
    print("try_dockerfile: all of it holds.")
    return 0


def _pairs(given: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in given)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="Where stages are put; some 5 GB.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="As docker build's.")
    parser.add_argument("--hosts", action="store_true", help="Make the `hosts` stage and try it instead.")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="For RUN steps only, e.g. PIP_CERT=FILE."
    )
    parser.add_argument(
        "--bind", action="append", default=[], type=Path, metavar="PATH", help="For RUN steps only, where it is."
    )
    parser.add_argument("--reuse", action="store_true", help="Try the stages that an earlier run has left.")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
