"""The build through TensorRT-LLM: a Hugging Face checkpoint in, an engine directory out, in one process for each rank.

A process for each gives back its GPU's memory and its host's, and what kills it becomes a sentence here. The ranks are
built one after the other. This process never imports tensorrt_llm.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmserve import __version__
from llmserve.checkpoint.disk import readable_bytes
from llmserve.checkpoint.engine_dir import TENSORRT_LLM, EngineDirWriter, shard_names
from llmserve.checkpoint.folder import read_json
from llmserve.checkpoint.ranks import checkpoint_dtype
from llmserve.checkpoint.source import Checkpoint
from llmserve.checkpoint.text_files import describe_left_out, load_tokenizer, text_files, tokenizer_sha256
from llmserve.config import Manifest, TensorRTLLMBuildConfig, TensorRTLLMFacts, first_problem
from llmserve.engine.launch import module_command
from llmserve.errors import BuildError
from llmserve.models import read_config
from llmserve.models.generation import read_generation
from llmserve.tensorrt_llm import library
from llmserve.tensorrt_llm.architectures import Architecture, architecture_of
from llmserve.tensorrt_llm.rank_build import CALIBRATED, GivenInt4, Options, Result

LOG_LINES = 40
"""What is shown of a step's own messages where it failed."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    manifest: Manifest
    source_bytes: int  # of the checkpoint's tensors
    engine_bytes: int  # of all ranks' engines
    not_applied: tuple[str, ...]  # of generation_config.json


def build_engine(
    checkpoint: Checkpoint, target: Path, config: TensorRTLLMBuildConfig, *, force: bool = False, say: Say
) -> Report:
    """`say` is told what is being done. Raises CheckpointError, ConfigError or BuildError in one sentence, and then
    leaves nothing behind."""
    architecture = architecture_of(checkpoint.config, config.trust_remote_code)
    model = read_config(checkpoint.config)
    given = _given(checkpoint, config, architecture)
    max_seq_len = _max_seq_len(config, model.max_position)
    dtype = config.dtype if config.dtype != "auto" else checkpoint_dtype(checkpoint)
    if config.dtype == "auto" and dtype == "float32":
        dtype = "float16"  # as TensorRT-LLM's own auto
    library.find()
    tokenizer = load_tokenizer(checkpoint)
    eos = None if tokenizer is None else tokenizer.eos_token_id
    generation = read_generation(checkpoint.config, checkpoint.generation_config, model.vocab_size, eos)
    with EngineDirWriter(target, force) as writer:
        work, output = writer.path / ".work", writer.path / TENSORRT_LLM
        work.mkdir()
        options = Options(
            step="build",
            config=config,
            checkpoint=str(checkpoint.path),
            model_class=architecture.model_class,
            class_options=architecture.options,
            dtype=dtype,
            given=given,
            rank=0,
            gpu=0,
            max_seq_len=max_seq_len,
            calibrated=str(work / "calibrated"),
            timing_cache=config.timing_cache or str(work / "timing.cache"),
            output=str(output),
            result=str(work / "result.json"),
        )
        if config.quant in CALIBRATED:
            say(f"calibrating {config.quant} on {config.calib_dataset}")
            _run(options.model_copy(update={"step": "calibrate"}), work)
        for rank in range(config.tp_size):
            say(f"building rank {rank} of {config.tp_size}")
            result = _run(options.model_copy(update={"rank": rank}), work)
        shutil.rmtree(work)
        manifest = Manifest(
            llmserve_version=__version__,
            executor="tensorrt-llm",
            device="cuda",
            model_name=checkpoint.name,
            model=model,
            quant="int4" if given else config.quant,
            head_quant="none",
            group_size=given.group_size if given else 128 if config.quant == "int4_awq" else None,
            zero_points=given is not None and given.zero_points,
            tp_size=config.tp_size,
            dtype=dtype,
            generation=generation.defaults,
            tokenizer_sha256=tokenizer_sha256(checkpoint),
            source_fingerprint=checkpoint.fingerprint(),
            files={},
            tensorrt_llm=_facts(output, result),
        )
        for name in shard_names(manifest):
            if not (writer.path / name).is_file():
                raise BuildError(f"TensorRT-LLM wrote no {name}, although it reported no problem; this is a bug.")
        for file in text_files(checkpoint):
            writer.add_file(file)
        say("computing checksums")
        manifest = writer.finish(manifest)
    engine_bytes = sum(manifest.files[name].size for name in shard_names(manifest))
    return Report(manifest, checkpoint.total_bytes, engine_bytes, generation.not_applied)


def _given(checkpoint: Checkpoint, config: TensorRTLLMBuildConfig, architecture: Architecture) -> GivenInt4 | None:
    form = checkpoint.int4
    if form is None:
        return None
    if not architecture.takes_int4:
        raise BuildError(
            f"the checkpoint's weights are int4 ({form.method}), which TensorRT-LLM does not read for this family; use "
            "the model's BF16 or F16 checkpoint, or --backend native."
        )
    if _orders_columns(checkpoint):
        raise BuildError(
            "the checkpoint's columns are in the order of their activations (desc_act), which TensorRT-LLM does not "
            "read; use one without, or --backend native."
        )
    if "quant" in config.model_fields_set and config.quant != "int4":
        raise BuildError(
            f"the checkpoint's weights are int4 ({form.method}) and cannot be had as --quant {config.quant}; leave "
            "--quant away, or use the model's BF16 or F16 checkpoint."
        )
    return GivenInt4(method=form.method, group_size=form.group_size, zero_points=form.zero_points)


def _orders_columns(checkpoint: Checkpoint) -> bool:
    """Whether a GPTQ checkpoint says so; an opened one has been relieved of that."""
    for name, key in (("config.json", "quantization_config"), ("quantize_config.json", None)):
        if (checkpoint.path / name).exists():
            settings = read_json(checkpoint.path / name)[1]
            if ((settings.get(key) or {}) if key else settings).get("desc_act"):
                return True
    return False


def _max_seq_len(config: TensorRTLLMBuildConfig, max_position: int) -> int:
    """Raises BuildError where the limits contradict the model or each other."""
    length = config.max_seq_len or max_position
    if length > max_position:
        raise BuildError(
            f"--max-seq-len {length} is more than the {max_position} positions that the model has; ask for fewer."
        )
    if config.max_input_len is not None and config.max_input_len >= length:
        raise BuildError(
            f"--max-input-len {config.max_input_len} leaves no room for an answer within {length} tokens; ask for less."
        )
    return length


def _run(options: Options, work: Path) -> Result:
    """One step. BuildError says how it failed."""
    result = run_apart(options, work)
    if result.problem:
        raise BuildError(result.problem)
    return result


def run_apart(options: Options, work: Path) -> Result:
    """One step in a process of its own. BuildError where it died of it; what it said is then shown."""
    who = "calibrating" if options.step == "calibrate" else f"building rank {options.rank}"
    log, result = work / "log", Path(options.result)
    result.unlink(missing_ok=True)
    command = [*module_command("llmserve.tensorrt_llm.rank_build"), options.model_dump_json()]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            code = process.wait()
        finally:
            process.kill()  # where we are interrupted
            process.wait()
    if code != 0:
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]), file=sys.stderr)
    try:
        return Result.model_validate_json(result.read_text("utf-8"))
    except (OSError, ValidationError):
        raise BuildError(f"{who} ended {_how(code)}; its last messages are above.") from None


def _how(code: int) -> str:
    if code != -signal.SIGKILL:
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return (
        "by SIGKILL, by hand or by the system for want of memory (of this host: the checkpoint has to fit, and for "
        "ChatGLM as often as is read at once)"
    )


def _facts(output: Path, result: Result) -> TensorRTLLMFacts:
    """From the config that TensorRT-LLM wrote beside its engines. BuildError where it is not as we know it."""
    try:
        limits: dict[str, Any] = json.loads((output / "config.json").read_text("utf-8"))["build_config"]
        plugins = limits["plugin_config"]
        return TensorRTLLMFacts(
            version=result.version,
            tensorrt_version=result.tensorrt_version,
            gpu=result.gpu,
            sm=result.sm,
            max_batch_size=limits["max_batch_size"],
            max_input_len=limits["max_input_len"],
            max_seq_len=limits["max_seq_len"],
            max_num_tokens=limits["max_num_tokens"],
            tokens_per_block=plugins["tokens_per_block"],
            paged_context=plugins["use_paged_context_fmha"],
        )
    except ValidationError as e:
        raise BuildError(f"TensorRT-LLM's config.json cannot be used: {first_problem(e)}.") from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise BuildError(f"TensorRT-LLM's config.json cannot be read ({type(e).__name__}: {e}).") from None


def describe(report: Report) -> list[tuple[str, str]]:
    """The closing table's rows."""
    m, facts = report.manifest, report.manifest.tensorrt_llm
    assert facts is not None
    ratio = report.engine_bytes / report.source_bytes
    rows = [
        ("model", f"{m.model_name} ({m.model.family})"),
        *m.stored_as(),
        ("ranks", f"{m.tp_size} × {facts.gpu}"),
        (
            "runs on",
            f"TensorRT-LLM {facts.version}, TensorRT {facts.tensorrt_version}, compute capability {facts.sm / 10}",
        ),
        ("limits", f"{facts.max_batch_size} sequences of {facts.max_seq_len} tokens, {facts.max_num_tokens} in a step"),
        ("before", readable_bytes(report.source_bytes)),
        ("after", f"{readable_bytes(report.engine_bytes)} ({ratio:.0%})"),
    ]
    return rows + describe_left_out(m, report.not_applied)
