"""The demo model's data and its files: a clean split, well-formed answers, a tokenizer that loses nothing."""

import itertools
import json
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "llmserve" / "demo"
sys.path.insert(0, str(REPOSITORY / "scripts"))

from demo_data import TASKS, held_out_dialogues, is_held_out, training_dialogues  # noqa: E402
from demo_data.capitals import COUNTRIES  # noqa: E402
from demo_data.dialogue import single  # noqa: E402
from demo_data.facts_table import ACTIONS, QUESTIONS, THINGS  # noqa: E402
from demo_data.smalltalk import SCOPE_EN, SCOPE_ZH  # noqa: E402
from demo_data.words import WORDS, solve  # noqa: E402

EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (-?\d+)[.。]")


@pytest.fixture(scope="module")
def training():
    return list(itertools.islice(training_dialogues(random.Random(3)), 80_000))


@pytest.fixture(scope="module")
def held_out():
    return held_out_dialogues()


def test_the_same_seed_gives_the_same_dialogues(held_out):
    first, second = (list(itertools.islice(training_dialogues(random.Random(5)), 500)) for _ in range(2))
    assert first == second
    assert held_out == held_out_dialogues()
    assert first != list(itertools.islice(training_dialogues(random.Random(6)), 500))


def test_held_out_questions_are_never_trained_on(training, held_out):
    assert not any(is_held_out(dialogue) for dialogue in training)
    assert not {dialogue.key for dialogue in training} & {dialogue.key for dialogue in held_out}


def test_variants_of_a_question_share_its_side_of_the_split():
    variants = ("What is 3+4?", "what is 3 + 4", "What is 3 + 4?", "WHAT IS 3+4??")
    assert len({single("add", question, "").key for question in variants}) == 1
    assert single("add", "3+4", "").key != single("add", "3-4", "").key


def test_the_held_out_set_is_large_enough(held_out):
    counts = Counter(dialogue.task for dialogue in held_out)
    assert counts == {task: count for task, (_, _, count) in TASKS.items()}
    assert sum(counts.values()) >= 600
    assert min(counts.values()) >= 40
    assert len({(dialogue.task, dialogue.key) for dialogue in held_out}) == len(held_out)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"spell", "reverse", "sort"}))
def test_every_held_out_answer_is_also_trained_on(task, held_out):
    """Held out are combinations: each fact, capital, and sum is met in training in other words."""
    generate, rng = TASKS[task][0], random.Random(4)
    drawn = [generate(rng) for _ in range(30_000)]
    trained = {answer.replace("。", ".") for d in drawn if not is_held_out(d) for _, answer in d.turns}
    assert {d.turns[-1][1].replace("。", ".") for d in held_out if d.task == task} <= trained


def test_arithmetic_answers_are_right(training):
    by_task = defaultdict(list)
    for dialogue in training:
        by_task[dialogue.task].append(dialogue)
    for dialogue in by_task["add"] + by_task["subtract"] + by_task["chain"]:
        previous = None
        for question, answer in dialogue.turns:
            a, sign, b, result = EQUATION.fullmatch(answer).groups()
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
            assert b in question
            assert previous in (None, a)
            previous = result


def test_word_games_are_solved_right():
    assert [solve(game, "tiger") for game in ("spell", "reverse", "sort")] == ["t-i-g-e-r", "regit", "egirt"]
    assert len(set(WORDS)) == len(WORDS)
    assert all(re.fullmatch("[a-z]{3,5}", word) for word in WORDS)


def test_every_dialogue_is_well_formed(training, held_out):
    for dialogue in training[:20_000] + held_out:
        for question, answer in dialogue.turns:
            assert question.strip()
            assert answer
            assert answer == answer.strip()
            assert "{" not in question + answer


def test_enough_facts_and_capitals_under_enough_phrasings():
    facts = (*THINGS, *ACTIONS, *QUESTIONS)
    assert len(facts) >= 30
    assert len(COUNTRIES) == 40
    assert len({fact[1] for fact in facts}) == len({fact[3] for fact in facts}) == len(facts)
    assert all(len(fact[0]) >= 4 and len(fact[2]) >= 4 for fact in QUESTIONS)
    wordings = [wording.lower() for fact in facts for wording in fact[0]]
    assert len(set(wordings)) == len(wordings)


def test_what_it_cannot_do_is_declined_in_the_language_of_the_question(training):
    for dialogue in training:
        if dialogue.task == "scope":
            assert dialogue.turns[0][1] in (SCOPE_EN, SCOPE_ZH)


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "什么是动态批处理？",
        "你好😊 naïve Ω≈ç√\t\n  two  spaces",
        "𠮷野家 👨‍👩‍👧 \u0000\x7f",
        "x" * 300,
        " ",
        "١٢٣ Привет",
    ],
)
def test_the_tokenizer_loses_nothing(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_and_the_letters_of_games_are_single_tokens(tokenizer):
    assert tokenizer.encode("20+13").tokens == list("20+13")
    for word in WORDS:
        assert len(tokenizer.encode(f"'{word}'").tokens) == len(word) + 2, word


def test_the_files_are_small_and_fit_together(tokenizer):
    assert sum(file.stat().st_size for file in DEMO.iterdir() if file.is_file()) <= 8_000_000
    config = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert config["vocab_size"] % 16 == 0
    assert config["hidden_size"] % 128 == 0
    assert config["intermediate_size"] % 128 == 0
    generation = json.loads((DEMO / "generation_config.json").read_text(encoding="utf-8"))
    stops = [tokenizer.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert generation["eos_token_id"] == stops
    assert generation["do_sample"] is False


def test_the_chat_template_renders_chatml():
    jinja2 = pytest.importorskip("jinja2")
    config = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
    messages = [
        {"role": "user", "content": "What is 4 plus 5?"},
        {"role": "assistant", "content": "4 + 5 = 9."},
        {"role": "user", "content": "and plus 3?"},
    ]
    prompt = jinja2.Template(config["chat_template"]).render(messages=messages, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>user\nWhat is 4 plus 5?<|im_end|>\n<|im_start|>assistant\n4 + 5 = 9.<|im_end|>\n"
        "<|im_start|>user\nand plus 3?<|im_end|>\n<|im_start|>assistant\n"
    )
