"""Checkpoints of the Hugging Face hub: the files that a build needs, into the hub's own cache, from where it was left.

`huggingface_hub` does the work: its cache is shared with every other program, it resumes what was broken off, knows
tokens and mirrors (HF_TOKEN, HF_ENDPOINT) and shows progress. Without a network a model that is in the cache is taken
from there.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from llmserve.checkpoint.folder import MODEL_FORMS, shard_names
from llmserve.errors import CheckpointError

_CONFIGS = ("config.json", "quantize_config.json")


def is_hub_id(given: str) -> bool:
    """`org/name`, and nothing of that name lies here."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given) is not None and not Path(given).exists()


def fetch(repo: str, revision: str | None, also: tuple[str, ...]) -> Path:
    """The folder that holds the model, downloaded as far as it was not. `also`: patterns of files beside the weights.

    Raises CheckpointError in one sentence.
    """
    from huggingface_hub import hf_hub_download

    names = _listed(repo, revision)
    if isinstance(names, Path):
        return names
    if "config.json" not in names:
        raise CheckpointError(f"{repo} of the hub is not a checkpoint that llmserve can build: it has no config.json.")

    def download(name: str, commit: str | None) -> Path:
        try:
            return Path(hf_hub_download(repo, name, revision=commit))
        except Exception as e:
            _refuse(repo, revision, e)

    folder = download("config.json", revision).parent  # the cache remembers which commit the revision was
    commit = folder.name
    beside = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in (*_CONFIGS, *also))]
    for name in beside + _weights(repo, names, lambda index: download(index, commit)):
        download(name, commit)
    return folder


def fetch_config(repo: str, revision: str | None) -> Path:
    """The folder of the cache that holds the model's config.json, downloaded if it was not, and maybe nothing else.

    Raises CheckpointError in one sentence.
    """
    from huggingface_hub import hf_hub_download

    names = _listed(repo, revision)
    if isinstance(names, Path):
        return names
    if "config.json" not in names:
        raise CheckpointError(f"{repo} of the hub has no config.json, so there is nothing to plan with.")
    try:
        folders = [Path(hf_hub_download(repo, n, revision=revision)).parent for n in _CONFIGS if n in names]
    except Exception as e:
        _refuse(repo, revision, e)
    return folders[0]


def _listed(repo: str, revision: str | None) -> list[str] | Path:
    """The names of its files; where the hub cannot be asked, the folder of the cache that has it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(repo, revision=revision)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as e:
        _refuse(repo, revision, e)
    except Exception as e:  # which ones mean "no network" is a matter of the HTTP library that the hub's happens to use
        return _from_cache(repo, revision, e)
    return [file.rfilename for file in info.siblings or []]


def _weights(repo: str, names: list[str], download: Callable[[str], Path]) -> list[str]:
    for form in MODEL_FORMS:
        if form.single in names:
            return [form.single]
        if form.index in names:
            return [form.index, *sorted(set(shard_names(download(form.index)).values()))]
    forms = ", ".join(form.single for form in MODEL_FORMS)
    raise CheckpointError(f"{repo} of the hub holds no weights in a form that llmserve reads ({forms}, or an index).")


def _from_cache(repo: str, revision: str | None, error: Exception) -> Path:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    if isinstance(found, str):
        return Path(found).parent
    raise CheckpointError(
        f"{repo} is not here, not in the hub's cache, and the hub cannot be reached ({_first_line(error)}); give a "
        "local folder or connect to the network."
    ) from None


def _refuse(repo: str, revision: str | None, error: Exception) -> NoReturn:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        why = (
            f"{repo} is gated; ask for access at its page on the hub, then log in with `hf auth login` or set HF_TOKEN"
        )
    elif isinstance(error, RepositoryNotFoundError):
        why = f"{repo} is neither a folder here nor a model of the hub; if it is private, log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        why = f"{repo} of the hub has no revision {revision!r:.200}; leave --revision away for its newest"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        why = f"the disk is full before {repo} is downloaded; free some space or set HF_HOME to a larger disk"
    else:
        why = f"{repo} could not be downloaded ({_first_line(error)}); run the same command again to go on"
    raise CheckpointError(f"{why}.") from None


def _first_line(error: Exception) -> str:
    """Libraries write errors of several lines and sentences."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return json.dumps(line[:200].rstrip(". "), ensure_ascii=False).strip('"')
