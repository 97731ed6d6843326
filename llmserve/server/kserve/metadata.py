"""What KServe's clients are told of the server and its model, in the protocol's form and in Triton's."""

from __future__ import annotations

from typing import Any

import llmserve
from llmserve.server.kserve.inference import OUTPUTS, TEXT_INPUT
from llmserve.server.kserve.parameters import PARAMETERS

VERSION = "1"
"""The only one of every model: an engine has no versions."""

EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "model_repository", "statistics")
PLATFORM = "llmserve"
_INPUTS = {TEXT_INPUT: "BYTES"} | {name: known.datatypes[0] for name, known in PARAMETERS.items()}
_TRITON = {"BYTES": "STRING"}
"""Datatypes that Triton's configurations have another name for; before all of them stands TYPE_."""


def server_metadata() -> dict[str, Any]:
    return {"name": "llmserve", "version": llmserve.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: str) -> dict[str, Any]:
    """The first dimension counts texts. A request of one may leave the second out: [1]."""
    return {
        "name": model,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [{"name": name, "datatype": datatype, "shape": [-1, 1]} for name, datatype in _INPUTS.items()],
        "outputs": [{"name": name, "datatype": datatype, "shape": [-1, 1]} for name, datatype in OUTPUTS.items()],
    }


def model_config(model: str, max_batch_size: int) -> dict[str, Any]:
    """As Triton's config.pbtxt; `dims` are those of one text."""
    return {
        "name": model,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": max_batch_size,
        "input": [
            {"name": name, "data_type": _triton(datatype), "dims": [1], "optional": name != TEXT_INPUT}
            for name, datatype in _INPUTS.items()
        ],
        "output": [{"name": name, "data_type": _triton(datatype), "dims": [1]} for name, datatype in OUTPUTS.items()],
        "model_transaction_policy": {"decoupled": False},
    }


def _triton(datatype: str) -> str:
    return f"TYPE_{_TRITON.get(datatype, datatype)}"
