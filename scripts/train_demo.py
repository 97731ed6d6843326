"""Train the embedded demo model: `python scripts/train_demo.py` (about half an hour on two cores, minutes on a GPU).

Generates its data, builds the tokenizer, trains with the loss on the answers only, and writes a Hugging Face
checkpoint. `--resume` continues an interrupted run, `--export` only writes what the last saved state holds.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from demo_data import training_dialogues, vocabulary_texts
from demo_data.dialogue import Dialogue
from demo_export import export
from demo_model import Config, Qwen2, Rounding
from demo_tokenizer import END_OF_TEXT, IM_END, IM_START, build_tokenizer
from tokenizers import Tokenizer
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parent.parent
SEED = 7
WARM_UP_STEPS = 100
DECAY_FROM = 0.6  # the part of the run after which the learning rate falls
ROUND_FROM = 0.7  # the part of the run after which the weights are seen rounded
_ROUNDINGS = (Rounding(4, 64), Rounding(4, 32), Rounding(4, 128), Rounding(8, 0), None)
_SYSTEM_MESSAGES = ("You are a helpful assistant.", "You are the llmserve demo model.", "你是一个有用的助手。")


class Rows:
    """Endless batches of conversations, grouped by length so that little is padding.

    Most rows hold one dialogue; some hold several in a row, as a user asking one thing after another would write
    them, and a few are long. Every pool of rows has its own seed, so a run can be resumed at any pool.
    """

    def __init__(self, tokenizer: Tokenizer, batch_tokens: int, longest: int = 500, pool_rows: int = 1024) -> None:
        self.tokenizer, self.batch_tokens, self.longest, self.pool_rows = tokenizer, batch_tokens, longest, pool_rows
        self.pad = tokenizer.token_to_id(END_OF_TEXT)
        self._encoded: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        ids = self._encoded.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(self._encoded) < 200_000:
                self._encoded[text] = ids
        return ids

    def _append(self, row: list[int], scored: list[bool], dialogue: Dialogue) -> None:
        for question, answer in dialogue.turns:
            prompt = self._encode(f"{IM_START}user\n{question}{IM_END}\n{IM_START}assistant\n")
            reply = self._encode(f"{answer}{IM_END}")
            row += prompt + reply + self._encode("\n")
            scored += [False] * len(prompt) + [True] * len(reply) + [False]

    def _row(self, rng: random.Random, dialogues: Iterator[Dialogue]) -> tuple[list[int], list[bool]]:
        row: list[int] = []
        scored: list[bool] = []
        if rng.random() < 0.15:
            row += self._encode(f"{IM_START}system\n{rng.choice(_SYSTEM_MESSAGES)}{IM_END}\n")
            scored += [False] * len(row)
        kind = rng.random()
        wanted = 1 if kind < 0.75 else rng.randint(2, 4) if kind < 0.98 else self.longest
        for _ in range(wanted):
            self._append(row, scored, next(dialogues))
            if len(row) > self.longest - 150:
                break
        return row[: self.longest], scored[: self.longest]

    def pool(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one pool, in random order: token ids, and which of them are to be predicted."""
        rng = random.Random(f"{SEED}-{index}")
        dialogues = training_dialogues(rng)
        rows = sorted((self._row(rng, dialogues) for _ in range(self.pool_rows)), key=lambda row: len(row[0]))
        batches: list[list[tuple[list[int], list[bool]]]] = [[]]
        for row in rows:
            if (len(batches[-1]) + 1) * len(row[0]) > self.batch_tokens:
                batches.append([])
            batches[-1].append(row)
        rng.shuffle(batches)
        for batch in filter(None, batches):
            width = max(len(row) for row, _ in batch)
            ids = torch.tensor([row + [self.pad] * (width - len(row)) for row, _ in batch])
            scored = torch.tensor([marks + [False] * (width - len(marks)) for _, marks in batch])
            yield ids, scored


@dataclass
class Run:
    """A training run as it is saved: everything needed to go on with it."""

    model: Qwen2
    optimizer: torch.optim.Optimizer
    tokenizer: Tokenizer
    step: int = 0
    pool: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        state = {
            "config": self.model.config.as_dict(), "model": self.model.state_dict(), "step": self.step,
            "optimizer": self.optimizer.state_dict(), "tokenizer": self.tokenizer.to_str(), "pool": self.pool,
            "seconds": self.seconds, "torch_rng": torch.get_rng_state(),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)


def _optimizer(model: Qwen2, learning_rate: float) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def new_run(learning_rate: float, device: str) -> Run:
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer(vocabulary_texts())
    model = Qwen2(Config(vocab_size=tokenizer.get_vocab_size())).to(device)
    return Run(model, _optimizer(model, learning_rate), tokenizer)


def load_run(path: Path, learning_rate: float, device: str) -> Run:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = Qwen2(Config(**state["config"]))
    model.load_state_dict(state["model"])
    model.to(device)
    optimizer = _optimizer(model, learning_rate)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["torch_rng"])
    tokenizer = Tokenizer.from_str(state["tokenizer"])
    return Run(model, optimizer, tokenizer, state["step"], state["pool"], state["seconds"])


def learning_rate_factor(step: int, progress: float) -> float:
    """Warm up, stay, then fall to a fiftieth along a cosine."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    fallen = max(0.0, min(1.0, (progress - DECAY_FROM) / (1 - DECAY_FROM)))
    return 0.02 + 0.98 * (1 + math.cos(math.pi * fallen)) / 2


def train_step(run: Run, ids: Tensor, scored: Tensor, rounding: Rounding | None, bf16: bool) -> Tensor:
    device = next(run.model.parameters()).device
    ids, scored = ids.to(device), scored.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = run.model(ids[:, :-1], scored[:, 1:], rounding)
    loss = F.cross_entropy(logits.float(), ids[:, 1:][scored[:, 1:]])
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    return loss.detach()


class Reporter:
    """Progress for people: a bar on a terminal, a plain line now and then otherwise."""

    def __init__(self, every: int = 50) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.every, self.tokens, self.losses, self.since = every, 0, [], time.monotonic()
        self.bar = Progress(console=Console()) if Console().is_terminal else None
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("training", total=1.0)

    def step(self, run: Run, progress: float, loss: Tensor, tokens: int) -> None:
        self.tokens += tokens
        self.losses.append(loss)
        if len(self.losses) < self.every:
            return
        mean = torch.stack(self.losses).mean().item()
        rate = self.tokens / (time.monotonic() - self.since)
        line = f"step {run.step}  loss {mean:.4f}  {rate:,.0f} tokens/s  {100 * progress:.1f} %"
        if self.bar:
            self.bar.update(self.task, completed=progress, description=line)
        else:
            print(line, flush=True)
        self.tokens, self.losses, self.since = 0, [], time.monotonic()

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def train(run: Run, options: argparse.Namespace) -> None:
    rows = Rows(run.tokenizer, options.batch_tokens)
    rounding_rng = random.Random(f"{SEED}-rounding-{run.step}")
    reporter, saved, began = Reporter(), time.monotonic(), time.monotonic() - run.seconds
    progress = 0.0
    while progress < 1:
        for ids, scored in rows.pool(run.pool):
            run.seconds = time.monotonic() - began
            progress = min(1.0, max(run.step / options.steps, run.seconds / (60 * options.minutes)))
            for group in run.optimizer.param_groups:
                group["lr"] = options.learning_rate * learning_rate_factor(run.step, progress)
            rounding = rounding_rng.choice(_ROUNDINGS) if progress > ROUND_FROM else None
            loss = train_step(run, ids, scored, rounding, options.bf16)
            run.step += 1
            reporter.step(run, progress, loss, ids.numel())
            if progress >= 1:
                break
        run.pool += 1
        if time.monotonic() - saved > options.save_every:
            run.save(options.state)
            saved = time.monotonic()
    run.save(options.state)
    reporter.close()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--steps", type=int, default=12000, help="stop after this many steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="or after this many minutes")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--state", type=Path, default=REPOSITORY / "build" / "demo" / "state.pt")
    parser.add_argument("--save-every", type=float, default=120, help="seconds between saved states")
    parser.add_argument("--resume", action="store_true", help="go on from the saved state")
    parser.add_argument("--export", action="store_true", help="only write the checkpoint of the saved state")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "llmserve" / "demo")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    options = parse_options()
    if options.resume or options.export:
        run = load_run(options.state, options.learning_rate, options.device)
    else:
        run = new_run(options.learning_rate, options.device)
    if not options.export:
        print(json.dumps(run.model.config.as_dict()), sum(p.numel() for p in run.model.parameters()), "parameters")
        train(run, options)
    export(run.model, run.tokenizer, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
