"""Which class of TensorRT-LLM's reads a checkpoint, by config.json's `architectures`; explicit, as its own guessing
goes by folder names and runs the checkpoint's code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmserve.errors import BuildError

GLM4_VOCABULARY = 100_000
"""ChatGLM2 and 3 have 65,024 tokens, GLM-4-9B 151,552."""


@dataclass(frozen=True, slots=True)
class Architecture:
    model_class: str  # of tensorrt_llm.models
    takes_int4: bool  # checkpoints of GPTQ and AWQ
    runs_remote_code: bool  # transformers knows no such model, so it runs the code that the checkpoint brings
    options: dict[str, str] = field(default_factory=dict)  # further arguments of from_hugging_face


_QWEN = Architecture("QWenForCausalLM", takes_int4=True, runs_remote_code=False)
_LLAMA = Architecture("LLaMAForCausalLM", takes_int4=True, runs_remote_code=False)
_CHATGLM = Architecture("ChatGLMForCausalLM", takes_int4=False, runs_remote_code=True)

ARCHITECTURES = {
    "ChatGLMForConditionalGeneration": _CHATGLM,
    "ChatGLMModel": _CHATGLM,
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": _LLAMA,
    "QWenLMHeadModel": Architecture("QWenForCausalLM", takes_int4=True, runs_remote_code=True),
    "Qwen2ForCausalLM": _QWEN,
    "Qwen2MoeForCausalLM": _QWEN,
    "Qwen3ForCausalLM": _QWEN,
    "Qwen3MoeForCausalLM": _QWEN,
}


def architecture_of(config: dict[str, Any], trust_remote_code: bool) -> Architecture:
    """Of a checkpoint's config.json. BuildError where there is none, or it would run code that nobody trusted."""
    named = config.get("architectures")
    name = next((each for each in named if each in ARCHITECTURES), None) if isinstance(named, list) else None
    if name is None:
        raise BuildError(
            f"config.json names the architecture {named!r:.200}, which the tensorrt-llm backend does not build (it "
            f"builds {', '.join(sorted(ARCHITECTURES))}); use --backend native."
        )
    found = ARCHITECTURES[name]
    if found.runs_remote_code and not trust_remote_code:
        raise BuildError(
            f"TensorRT-LLM reads {name} by running the Python code that comes with the checkpoint; read it, then "
            "allow that with --trust-remote-code, or use --backend native, which runs none."
        )
    if found is _CHATGLM:
        return Architecture(found.model_class, found.takes_int4, True, {"chatglm_version": _chatglm_version(config)})
    return found


def _chatglm_version(config: dict[str, Any]) -> str:
    """The three differ there in how rope_ratio counts: of ChatGLM3 and GLM-4 it multiplies the base."""
    vocabulary = config.get("padded_vocab_size")
    if isinstance(vocabulary, int) and vocabulary > GLM4_VOCABULARY:
        return "glm4"
    return "chatglm3" if "rope_ratio" in config else "chatglm2"
