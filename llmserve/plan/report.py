"""A plan as tables for people, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from llmserve.cli_options import PlannedOptions
from llmserve.config import EngineConfig
from llmserve.plan.fit import MB, Fit, readable
from llmserve.plan.plan import Plan
from llmserve.runtime.kv_cache import DEFAULT_TOTAL


def print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(plan), indent=2, ensure_ascii=False))
        return
    console = Console(markup=False, emoji=False)  # names may hold [brackets]
    console.print(_needed(plan))
    if len(plan.fits) == 1:
        _print_one(console, plan.fits[0], plan)
    else:
        console.print(_machines(plan))
        for found in plan.fits:
            if found.advice:
                console.print(f"most of these are too small; of {found.machine.name}, the largest that is:")
                _print_advice(console, found)
    for note in plan.needs.notes:
        console.print(f"note: {note}")


def to_json(plan: Plan) -> dict[str, Any]:
    """Sizes in bytes, bandwidths in bytes a second; what is estimated is named in `estimated`."""
    needs, build = plan.needs, plan.wish.build
    return {
        "model": plan.name,
        "family": plan.model.family,
        "num_weights": plan.num_weights,
        "max_position": plan.model.max_position,
        "backend": plan.wish.backend,
        "device": build.device,
        "tp_size": build.tp_size,
        "quant": build.quant,
        "head_quant": _head(plan),
        "group_size": plan.group_size,
        "dtype": plan.dtype,
        "ranks": [asdict(share) for share in needs.shares],
        "workspace": needs.workspace,
        "kv_cache": {
            "dtype": needs.kv_dtype,
            "block_size": needs.block_size,
            "bytes_per_token": needs.kv_token,
        },
        "machines": [_machine(found) for found in plan.fits],
        "estimated": list(needs.estimated),
        "notes": list(needs.notes),
    }


def _machine(found: Fit) -> dict[str, Any]:
    values = asdict(found)
    values["machine"] = {key: values["machine"][key] for key in ("name", "memory", "bandwidth", "source")}
    return values


def _head(plan: Plan) -> str:
    return plan.wish.build.head if plan.wish.backend == "native" else "none"


def _needed(plan: Plan) -> Table:
    needs, build = plan.needs, plan.wish.build
    table = Table(title=f"plan of {plan.name}", show_header=False, title_justify="left")
    stored = [share.stored for share in needs.shares]
    resident = max(share.resident for share in needs.shares)
    scratch = max(share.scratch for share in needs.shares)
    groups = f" in groups of {plan.group_size}" if plan.group_size else ""
    about = dict.fromkeys(needs.estimated, "about ")
    for row in (
        ("model", f"{plan.model.family}, {_count(plan.num_weights)} weights, {plan.model.max_position:,} tokens"),
        ("engine", f"{plan.wish.backend}, {build.device}, tp_size {build.tp_size}"),
        ("stored as", f"layers {_told(build.quant, plan.dtype)}{groups}, LM head {_told(_head(plan), plan.dtype)}"),
        ("weights per rank", about.get("weights", "") + _range(stored)),
        (
            "in memory",
            about.get("weights", "")
            + readable(resident)
            + (f", and {readable(scratch)} of scratch" if scratch else ""),
        ),
        ("workspace", about.get("workspace", "") + _workspace(plan)),
        ("KV cache", f"{readable(needs.kv_token)} per token on each rank, in {needs.kv_dtype}"),
    ):
        table.add_row(*row)
    return table


def _print_one(console: Console, found: Fit, plan: Plan) -> None:
    machine = found.machine
    each = "" if machine.shared else f"{len(plan.needs.shares)} × "
    bandwidth = f"{machine.bandwidth / 1e9:,.0f} GB/s" if machine.bandwidth else "bandwidth not given (--bandwidth)"
    title = f"on {each}{machine.name} ({readable(machine.memory)}, {bandwidth}; {machine.source})"
    if found.at:
        table = Table("tokens each", "sequences", "decode, one", "decode, all", title=title, title_justify="left")
        for at in found.at:
            table.add_row(
                f"{at.length:,}",
                f"{at.sequences:,}",
                _speed(at.tokens_per_second_one),
                _speed(at.tokens_per_second_all),
            )
        console.print(table)
        console.print(f"{readable(found.kv_cache_memory)} of KV cache on each rank: {found.tokens:,} tokens.")
        console.print("decode: a ceiling in tokens a second, what memory bandwidth alone allows.")
    else:
        console.print(title)
    console.print(f"verdict: {found.verdict}.")
    if found.fits and plan.wish.backend == "native":
        _print_command(console, found, plan)
    _print_advice(console, found)


def _print_command(console: Console, found: Fit, plan: Plan) -> None:
    """What serves it as it is planned: `llmserve run` by itself may take less memory than there is."""
    engine, ranks, block = plan.wish.engine, len(plan.needs.shares), plan.needs.kv_block
    longest = engine.max_model_len or plan.model.max_position
    useful = engine.max_num_seqs * -(-longest // plan.needs.block_size)
    blocks = min(DEFAULT_TOTAL // ranks // block, useful)  # as `runtime.kv_cache` plans it
    by_itself = blocks == useful and blocks * block <= found.kv_cache_memory
    flags: dict[str, object] = {} if by_itself else {"kv_cache_memory": f"{found.kv_cache_memory // MB}MB"}
    for name in (field.name for field in fields(PlannedOptions)):
        if getattr(engine, name) != EngineConfig.model_fields[name].default:
            flags[name] = getattr(engine, name)
    if found.max_model_len < longest:
        flags["max_model_len"] = found.max_model_len
    told = "".join(f" --{name.replace('_', '-')} {value}" for name, value in flags.items())
    console.print(f"start it with `llmserve run ENGINE{told}`", soft_wrap=True)  # to be copied
    size = readable(ranks * blocks * block)
    if by_itself:
        console.print(f"  it takes {size} of KV cache over all ranks, which is all that its sequences can use.")
        return
    tokens = blocks * plan.needs.block_size
    shorter = f", enough for sequences of {tokens:,} tokens" if tokens < found.max_model_len else ""
    console.print(f"  without --kv-cache-memory it takes {size} over all ranks{shorter}.")


def _print_advice(console: Console, found: Fit) -> None:
    for advice in found.advice:
        console.print(f"  {advice}")


def _machines(plan: Plan) -> Table:
    table = Table(
        "GPU", "memory", "fits", "tokens of KV cache", "longest sequence", "decode",
        title=f"on {len(plan.needs.shares)} of each; decode: a ceiling in tokens a second, by memory bandwidth alone, "
        "of one sequence of 1,024 tokens or as many as it can have",
        title_justify="left",
    )  # fmt: skip
    for found in plan.fits:
        best = found.at[0] if found.at else None
        table.add_row(
            found.machine.name,
            readable(found.machine.memory),
            "yes" if found.fits else "no",
            f"{found.tokens:,}",
            f"{found.max_model_len:,}" if found.fits else "–",
            _speed(best.tokens_per_second_one) if best else "–",
        )
    return table


def _count(weights: int) -> str:
    return f"{weights / 1e9:,.2f} B" if weights >= 1e8 else f"{weights / 1e6:,.2f} M"


def _workspace(plan: Plan) -> str:
    """With the longest sequence of the one machine that is planned for."""
    only = plan.fits[0].workspace if len(plan.fits) == 1 else plan.needs.workspace
    beside = f", and {readable(plan.needs.scores_token)} for each token of the longest sequence"
    return readable(only) + (beside if len(plan.fits) > 1 and plan.needs.scores_token else "")


def _told(quant: str, dtype: str) -> str:
    return dtype if quant == "none" else quant


def _range(sizes: list[int]) -> str:
    least, most = readable(min(sizes)), readable(max(sizes))
    return most if least == most else f"{least} to {most}"


def _speed(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"
