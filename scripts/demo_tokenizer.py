"""The demo model's tokenizer: byte level, whole words and Chinese characters as single tokens, no merges.

A piece of text that is in the vocabulary is one token; any other piece falls apart into its bytes. So every UTF-8
text round-trips, digits are single tokens, and the words of letter games (which are kept out of the vocabulary)
reach the model letter by letter. Knows nothing of the model and of training.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT, IM_START, IM_END = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# A Chinese character, a digit, a word with the space before it, a sign with the space before it, one space.
_PIECES = r"\p{Han}|\p{N}| ?(?:(?!\p{Han})\p{L})+| ?[^\s\p{L}\p{N}]|\s"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def build_tokenizer(texts: Iterable[str], largest: int = 4096, multiple: int = 16) -> Tokenizer:
    """A tokenizer whose vocabulary is the pieces of these texts, the commonest first, cut to a multiple."""
    splitter = _splitter()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(piece) > 1]
    room = min(largest, (len(alphabet) + len(SPECIALS) + len(pieces)) // multiple * multiple)
    words = alphabet + pieces[: room - len(SPECIALS) - len(alphabet)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and the tokenizer_config.json that gives it to Transformers."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for token in SPECIALS
        },
        "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
