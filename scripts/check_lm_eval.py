"""lm-evaluation-harness against a server: `python scripts/check_lm_eval.py CHECKPOINT`.

Builds the checkpoint in fp32, serves it, has lm-eval's `local-completions` judge a small multiple-choice task that is
written here, and compares every log-likelihood that it got with transformers'. Exit code 1 where one is off by more
than TOLERANCE. Needs `pip install "lm-eval[api]"`, and installs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from serving_bench.server import serving

TOLERANCE = 1e-3
TASK = "endings"
BEGINNINGS = (
    "Once upon a time, there was a little",
    "One day, a big dog saw a",
    "Lily and Tom went to the park to",
    "The sun was bright and the birds",
    "She was very sad because she",
    "His mom said, \"Do not",
    "They were happy and played",
    "The cat jumped on the",
)  # fmt: skip
ENDINGS = (" girl named Lily.", " play with the ball.", " sang a song.", " lost her toy.", " all day long.", " of tax.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="with a tokenizer that transformers reads")
    checkpoint = parser.parse_args().checkpoint
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        print('lm-eval is not installed; `pip install "lm-eval[api]"`.')
        return 1
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        build = ["build", str(checkpoint), "-o", str(folder / "engine"), "--dtype", "float32"]
        subprocess.run([sys.executable, "-m", "llmserve", *build], check=True, stdout=subprocess.DEVNULL)
        with serving(folder / "engine", folder / "log", []) as server:
            told = judged(server.base, server.model, checkpoint, folder)
    ours = [value for _, value in told]
    theirs = likelihoods(checkpoint, [pair for pair, _ in told])
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    same = sum(a == b for a, b in zip(answers(ours), answers(theirs), strict=True))
    print(
        f"lm-eval's {len(told)} log-likelihoods differ from transformers' by at most {worst:.1e}; of "
        f"{len(BEGINNINGS)} questions {same} have the same answer."
    )
    return int(worst > TOLERANCE or same < len(BEGINNINGS))


def answers(values: list[float]) -> list[int]:
    """Of each question, the likeliest ending."""
    count = len(ENDINGS)
    questions = [values[at : at + count] for at in range(0, len(values), count)]
    return [of_endings.index(max(of_endings)) for of_endings in questions]


def judged(base: str, model: str, checkpoint: Path, folder: Path) -> list[tuple[tuple[str, str], float]]:
    """(context, continuation) and its log-likelihood, as lm-eval got it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    docs = [{"question": beginning, "choices": ENDINGS, "answer": 0} for beginning in BEGINNINGS]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    task: dict[str, Any] = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "task.yaml").write_text(json.dumps(task))  # JSON is YAML
    settings = f"model={model},base_url={base}/v1/completions,tokenizer={checkpoint},num_concurrent=4,max_length=512"
    results = simple_evaluate(
        model="local-completions",
        model_args=settings,
        tasks=[TASK],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        batch_size=4,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert results is not None
    return [
        (tuple(arguments[:2]), float(response[0]))
        for sample in sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
        for arguments, response in zip(sample["arguments"], sample["filtered_resps"], strict=True)
    ]


@torch.inference_mode()
def likelihoods(checkpoint: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """transformers', of each continuation after its context; cut into tokens together, as lm-eval does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    told = []
    for context, continuation in pairs:
        ids = tokenizer.encode(context + continuation, add_special_tokens=False)
        first = len(tokenizer.encode(context, add_special_tokens=False))
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told.append(sum(float(logs[at - 1, ids[at]]) for at in range(first, len(ids))))
    return told


if __name__ == "__main__":
    sys.exit(main())
