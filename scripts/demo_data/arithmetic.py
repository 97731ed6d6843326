"""Sums and differences of whole numbers from 0 to 20, alone and continued in a second turn.

The answers repeat the operands ("9 + 3 = 12."), so that the result depends only on what stands right before it.
"""

import random

from .dialogue import Dialogue, single, vary

LARGEST = 20

_ADD = (
    "What is {a} plus {b}?", "What's {a}{+}{b}?", "What is {a}{+}{b}?", "{a}{+}{b}=?", "{a}{+}{b}", "{a}{+}{b} =",
    "{a}{+}{b} = ?",
    "Add {a} and {b}.", "How much is {a} plus {b}?", "How much is {a}{+}{b}?", "Calculate {a}{+}{b}.",
    "Compute {a} plus {b}.", "Can you add {a} and {b}?", "What is the sum of {a} and {b}?", "{a} plus {b}?",
    "Tell me {a}{+}{b}.", "Please add {b} to {a}.",
    "{a}加{b}等于多少？", "{a}{+}{b}等于几？", "{a}加{b}是多少？", "计算{a}{+}{b}。", "请算一下{a}加{b}。",
    "请问{a}加{b}等于几？", "{a}与{b}的和是多少？", "{a}加上{b}得多少？", "{a}{+}{b}是多少？", "算一下{a}{+}{b}。",
)  # fmt: skip
_SUBTRACT = (
    "What is {a} minus {b}?", "What's {a}{-}{b}?", "What is {a}{-}{b}?", "{a}{-}{b}=?", "{a}{-}{b}", "{a}{-}{b} =",
    "{a}{-}{b} = ?",
    "Subtract {b} from {a}.", "How much is {a} minus {b}?", "How much is {a}{-}{b}?", "Calculate {a}{-}{b}.",
    "Compute {a} minus {b}.", "Can you subtract {b} from {a}?", "Take {b} away from {a}.", "{a} minus {b}?",
    "Tell me {a}{-}{b}.", "Please take {b} from {a}.",
    "{a}减{b}等于多少？", "{a}{-}{b}等于几？", "{a}减{b}是多少？", "计算{a}{-}{b}。", "请算一下{a}减{b}。",
    "请问{a}减{b}等于几？", "{a}与{b}的差是多少？", "{a}减去{b}得多少？", "{a}{-}{b}是多少？", "算一下{a}{-}{b}。",
)  # fmt: skip
_THEN_ADD_EN = ("And plus {b}?", "Plus {b}?", "And {b} more?", "Now add {b}.", "Then plus {b}?", "And if I add {b}?")
_THEN_ADD_ZH = ("再加{b}呢？", "再加{b}？", "然后加{b}呢？", "再加上{b}是多少？", "那再加{b}呢？", "加{b}呢？")
_THEN_SUB_EN = ("And minus {b}?", "Minus {b}?", "And {b} less?", "Now subtract {b}.", "Then minus {b}?",
                "And if I subtract {b}?")  # fmt: skip
_THEN_SUB_ZH = ("再减{b}呢？", "再减{b}？", "然后减{b}呢？", "再减去{b}是多少？", "那再减{b}呢？", "减{b}呢？")


def equation(sign: str, a: int, b: int, chinese: bool) -> str:
    result = a + b if sign == "+" else a - b
    return f"{a} {sign} {b} = {result}" + ("。" if chinese else ".")


def _question(rng: random.Random, sign: str, a: int, b: int) -> tuple[str, bool]:
    frame = rng.choice(_ADD if sign == "+" else _SUBTRACT)
    space = rng.choice(("", " "))
    question = frame.replace("{" + sign + "}", space + sign + space).format(a=a, b=b)
    chinese = not frame.isascii()
    return vary(rng, question), chinese


def _operands(rng: random.Random, sign: str) -> tuple[int, int]:
    a, b = rng.randint(0, LARGEST), rng.randint(0, LARGEST)
    if sign == "-" and a < b and rng.random() < 0.5:  # negative results are seen, ordinary ones more often
        a, b = b, a
    return a, b


def _one(task: str, sign: str, rng: random.Random) -> Dialogue:
    a, b = _operands(rng, sign)
    question, chinese = _question(rng, sign, a, b)
    return single(task, question, equation(sign, a, b, chinese))


def add(rng: random.Random) -> Dialogue:
    return _one("add", "+", rng)


def subtract(rng: random.Random) -> Dialogue:
    return _one("subtract", "-", rng)


def chain(rng: random.Random) -> Dialogue:
    """Two turns: a sum, then "and plus 3?" on its result, which may be up to 40."""
    while True:
        sign = rng.choice("+-")
        a, b = _operands(rng, sign)
        result = a + b if sign == "+" else a - b
        if result >= 0:
            break
    question, chinese = _question(rng, sign, a, b)
    then = rng.choice("+-")
    c = rng.randint(0, LARGEST if then == "+" or rng.random() < 0.2 else min(result, LARGEST))
    frames = {"+": (_THEN_ADD_EN, _THEN_ADD_ZH), "-": (_THEN_SUB_EN, _THEN_SUB_ZH)}[then][chinese]
    follow_up = vary(rng, rng.choice(frames).format(b=c))
    first = (question, equation(sign, a, b, chinese))
    return Dialogue("chain", (first, (follow_up, equation(then, result, c, chinese))))
