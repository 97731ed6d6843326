"""Small letter games: spell a word, reverse it, sort its letters.

Half of the training words are invented, so the model has to learn the game instead of a list. The tokenizer keeps
the words of these games out of its vocabulary: they reach the model letter by letter.
"""

import random

from .dialogue import Dialogue, single, vary

_LIST = (
    "ant ape arm bag bat bed bee box boy bus cap car cat cow cup day dog ear egg elf fan fig fly fox gem gum hat "
    "hen ink jam jar jet key kid leg log map mud nut oak owl pen pet pie pig pot rat red rug sea sky sun tea toe "
    "toy tub van web zoo bear bell bird boat bone book cake coat corn crab deer desk dove drum duck fish flag frog "
    "game gift goat gold hand horn jump king kite lake lamb leaf lion milk moon nest nose pear pony rain ring rose "
    "salt seed ship shoe snow song star swan tiger train tree wind wolf wool apple beach bread chair cloud clown "
    "eagle grape green horse house lemon mango melon mouse music ocean paint piano plane plant queen river robot "
    "sheep snake spoon storm tooth water whale zebra"
)
WORDS = tuple(_LIST.split())

_GAMES = {
    "spell": (
        "Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "Please spell {w}.", "Can you spell {w}?",
        "How is {w} spelled?", "Spell out {w}.", "Spell {w} letter by letter.",
        "拼写{w}。", "怎么拼写{w}？", "请拼写单词{w}。", "{w}怎么拼？", "把{w}拼出来。", "请一个字母一个字母地拼{w}。",
    ),
    "reverse": (
        "Reverse {w}.", "Reverse the word {w}.", "What is {w} backwards?", "Write {w} backwards.",
        "Please reverse {w}.",
        "Can you reverse {w}?", "Say {w} in reverse.", "Turn {w} around.",
        "把{w}倒过来。", "把{w}反过来写。", "{w}倒过来是什么？", "请反转单词{w}。", "将{w}倒序。", "{w}反过来怎么写？",
    ),
    "sort": (
        "Sort {w}.", "Sort the letters of {w}.", "Sort the letters in {w}.", "Put the letters of {w} in order.",
        "Please sort the letters of {w}.", "Can you sort the letters of {w}?", "Order the letters of {w}.",
        "What is {w} with its letters sorted?",
        "把{w}的字母排序。", "给{w}的字母排序。", "请把{w}的字母按顺序排列。", "{w}的字母排序后是什么？",
        "将{w}按字母排序。", "排序{w}的字母。",
    ),
}  # fmt: skip
FRAMES = tuple(frame for frames in _GAMES.values() for frame in frames)


def solve(game: str, word: str) -> str:
    if game == "spell":
        return "-".join(word)
    return word[::-1] if game == "reverse" else "".join(sorted(word))


def _invented(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.choice((3, 3, 4, 4, 5))))


def _quoted(rng: random.Random, word: str, chinese: bool) -> str:
    left, right = rng.choice((("", ""), ("'", "'"), ('"', '"'), ("“", "”") if chinese else ("", "")))
    return left + word + right


def _play(game: str, rng: random.Random) -> Dialogue:
    word = rng.choice(WORDS) if rng.random() < 0.5 else _invented(rng)
    frame = rng.choice(_GAMES[game])
    question = frame.format(w=_quoted(rng, word, not frame.isascii()))
    return single(game, vary(rng, question), solve(game, word))


def spell(rng: random.Random) -> Dialogue:
    return _play("spell", rng)


def reverse(rng: random.Random) -> Dialogue:
    return _play("reverse", rng)


def sort(rng: random.Random) -> Dialogue:
    return _play("sort", rng)
