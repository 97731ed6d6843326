"""`llmserve inspect`: an engine's manifest for people. Reads headers only, never weights."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from llmserve.checkpoint.disk import readable_bytes
from llmserve.checkpoint.engine_dir import EngineDir
from llmserve.config import Manifest


def print_engine(path: Path, *, tensors: bool, as_json: bool) -> None:
    """Raises EngineDirError in one sentence where `path` is no whole engine."""
    engine = EngineDir.open(path)
    console = Console(markup=False, emoji=False)  # names and paths may hold [brackets]
    if as_json:
        print(engine.manifest.model_dump_json(indent=2))
        return
    console.print(_summary(engine))
    if tensors:
        engine.require_native()
        for rank in range(engine.manifest.tp_size):
            console.print(_tensors(engine, rank))


def _summary(engine: EngineDir) -> Table:
    m = engine.manifest
    model = m.model
    windows = sorted({w for w in model.sliding_windows if w is not None})
    kv_dtype = "float32" if m.dtype == "float32" else "bfloat16"
    kv_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim * {"float32": 4}.get(m.dtype, 2)
    table = Table(title=str(engine.path), show_header=False, title_justify="left")
    for key, value in (
        ("model", f"{m.model_name} ({model.family})"),
        ("executor", f"{m.executor}, {m.device}, tp_size {m.tp_size}"),
        *m.stored_as(),
        *_tensorrt_llm(m),
        ("layers", f"{model.num_layers} × hidden {model.hidden_size}, MLP {model.intermediate_size}"),
        ("attention", f"{model.num_heads} heads, {model.num_kv_heads} KV heads of {model.head_dim}"),
        ("sliding window", ", ".join(map(str, windows)) or "none"),
        ("rope", f"{model.rope.kind}, theta {model.rope.theta:g}"),
        ("vocabulary", f"{model.vocab_size} tokens, head {'tied' if model.tie_embeddings else 'of its own'}"),
        ("model length", f"{model.max_position} tokens"),
        (
            "KV cache",
            f"{readable_bytes(kv_token)} per token, over all ranks, in {kv_dtype}",
        ),
        ("stop tokens", ", ".join(map(str, m.generation.eos_token_ids)) or "none"),
        ("built by", f"llmserve {m.llmserve_version}, format {m.format}"),
        ("source", m.source_fingerprint[:16]),
    ):
        table.add_row(key, value)
    for name, record in m.files.items():
        table.add_row(name, f"{readable_bytes(record.size)}, blake3 {record.blake3[:16]}")
    return table


def _tensorrt_llm(manifest: Manifest) -> list[tuple[str, str]]:
    """What its engine is tied to, and what is compiled in."""
    facts = manifest.tensorrt_llm
    if facts is None:
        return []
    return [
        ("runs on", f"TensorRT-LLM {facts.version}, TensorRT {facts.tensorrt_version}"),
        ("built on", f"{facts.gpu}, compute capability {facts.sm / 10}"),
        (
            "limits",
            f"{facts.max_batch_size} sequences of {facts.max_seq_len} tokens, {facts.max_input_len} in a prompt, "
            f"{facts.max_num_tokens} in a step",
        ),
    ]


def _tensors(engine: EngineDir, rank: int) -> Table:
    table = Table("tensor", "shape", "dtype", "size", title=f"rank {rank}", title_justify="left")
    for name, spec in engine.tensor_specs(rank).items():
        shape = " × ".join(map(str, spec.shape))
        table.add_row(name, shape, str(spec.dtype).removeprefix("torch."), readable_bytes(spec.nbytes))
    return table
