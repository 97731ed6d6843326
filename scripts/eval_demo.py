"""How well the demo model answers questions it never saw: `python scripts/eval_demo.py --quant none int8 int4`.

Builds an engine per quantisation scheme, asks the held-out questions of `demo_data` in batches with greedy decoding,
and prints the share of exactly right answers per task. Of a dialogue of two turns the second answer is scored.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path

from demo_data import TASKS, held_out_dialogues
from demo_data.dialogue import Dialogue

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_TOKENS = 200  # more than the longest answer has
Messages = list[dict[str, str]]


def answers(
    checkpoint: Path, conversations: list[Messages], quant: str, dtype: str = "auto", activations: str = "auto"
) -> list[str]:
    """An engine's greedy answers, one per conversation. The only function here that knows llmserve.

    `quant` is a scheme, for int4 also with its group size: "none", "int8", "int4", "int4:32".
    """
    from llmserve.checkpoint.build import build_engine
    from llmserve.checkpoint.source import Checkpoint
    from llmserve.config import BuildConfig, EngineConfig, Manifest
    from llmserve.engine.offline import OfflineEngine
    from llmserve.request import Request, SamplingParams
    from llmserve.tokenizer import Conversation, Tokenizer

    scheme, _, group_size = quant.partition(":")
    with tempfile.TemporaryDirectory(prefix="eval-demo-") as folder:
        engine = Path(folder) / "engine"
        config = BuildConfig(quant=scheme, group_size=int(group_size) if group_size else None, dtype=dtype)
        build_engine(Checkpoint.open(str(checkpoint)), engine, config)
        manifest = Manifest.read(engine)
        tokenizer = Tokenizer.load(engine, listed=manifest.files)
        stops = frozenset(manifest.generation.eos_token_ids)
        sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, stop_token_ids=stops)
        prompts = [tokenizer.encode_parts(tokenizer.chat.parts(Conversation(c))) for c in conversations]
        requests = [Request(index, tuple(prompt), sampling) for index, prompt in enumerate(prompts)]
        tokens = OfflineEngine(engine, EngineConfig(activations=activations)).tokens(requests)
    return [tokenizer.decode(tokens[index]) for index in range(len(requests))]


def conversation(dialogue: Dialogue) -> Messages:
    """The messages of a dialogue up to its last question, earlier answers as they should be."""
    messages = [
        {"role": role, "content": text}
        for turn in dialogue.turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return messages[:-1]


def chosen_dialogues(limit: int | None) -> list[Dialogue]:
    """The held-out dialogues, at most `limit` of each task."""
    by_task: dict[str, list[Dialogue]] = defaultdict(list)
    for dialogue in held_out_dialogues():
        by_task[dialogue.task].append(dialogue)
    return [dialogue for dialogues in by_task.values() for dialogue in dialogues[:limit]]


def accuracy(dialogues: list[Dialogue], replies: list[str]) -> dict[str, float]:
    """Percentages of exact matches per task, and over all items as "total"."""
    right: dict[str, list[bool]] = defaultdict(list)
    for dialogue, reply in zip(dialogues, replies, strict=True):
        matches = reply.strip() == dialogue.turns[-1][1]
        right[dialogue.task].append(matches)
        right["total"].append(matches)
    return {task: 100 * sum(marks) / len(marks) for task, marks in right.items()}


def print_table(results: dict[str, dict[str, float]], dialogues: list[Dialogue]) -> None:
    print(f"{'task':<12}{'items':>6}" + "".join(f"{quant:>9}" for quant in results))
    for task in [*TASKS, "total"]:
        items = sum(task in (dialogue.task, "total") for dialogue in dialogues)
        print(f"{task:<12}{items:>6}" + "".join(f"{scores[task]:>8.1f}%" for scores in results.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=REPOSITORY / "llmserve" / "demo")
    parser.add_argument("--quant", nargs="+", default=["none", "int8", "int4"], help="also int4:32, int4:64, int4:128")
    parser.add_argument("--dtype", default="auto", help="of activations and unquantised weights")
    parser.add_argument("--activations", default="auto", help="int8, bfloat16, float32: what weights are multiplied by")
    parser.add_argument("--limit", type=int, help="at most this many items of each task")
    parser.add_argument("--json", type=Path, help="also write the table, and every wrong answer, to this file")
    options = parser.parse_args()

    dialogues = chosen_dialogues(options.limit)
    conversations = [conversation(dialogue) for dialogue in dialogues]
    results, wrong = {}, {}
    for quant in options.quant:
        replies = answers(options.checkpoint, conversations, quant, options.dtype, options.activations)
        results[quant] = accuracy(dialogues, replies)
        wrong[quant] = [
            {"task": dialogue.task, "turns": dialogue.turns, "answer": reply}
            for dialogue, reply in zip(dialogues, replies, strict=True)
            if reply.strip() != dialogue.turns[-1][1]
        ]
    print_table(results, dialogues)
    if options.json:
        report = {"accuracy": results, "wrong": wrong}
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
