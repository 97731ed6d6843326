"""`llmserve verify-tensorrt-llm`: what it says of wheels that are like the contract, and of each way not to be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmserve.cli import app
from llmserve.errors import ConfigError
from llmserve.tensorrt_llm.contract import STUBS, contract, source
from llmserve.tensorrt_llm.contract.tree import Folder, Wheel
from llmserve.tensorrt_llm.verify import Findings, verify

Sources = dict[str, str]

LIKE_UPSTREAM = {
    "tensorrt_llm/__init__.py": """
        from .builder import BuildConfig, build
        from .mapping import Mapping
        from .version import __version__
    """,
    "tensorrt_llm/version.py": '__version__ = "1.2.1"',
    "tensorrt_llm/builder.py": """
        from .llmapi.utils import StrictBaseModel
        from .plugin import PluginConfig

        class BuildConfig(StrictBaseModel):
            max_input_len: int = Field(default=1024, description="…")
            max_seq_len: Optional[int] = Field(default=None)
            opt_batch_size: int = 8
            max_batch_size: int = Field(2048)
            max_beam_width: int = 1
            max_num_tokens: int = 8192
            opt_num_tokens: Optional[int] = None
            input_timing_cache: Optional[str] = None
            output_timing_cache: Optional[str] = "model.cache"
            plugin_config: PluginConfig = Field(default_factory=PluginConfig)

        class EngineConfig:
            def __init__(self, pretrained_config: 'PretrainedConfig', build_config, version: str):
                self.pretrained_config = pretrained_config
                self.build_config = build_config
                self.version = version

        class Engine:
            def __init__(self, config, engine, managed_weights={}):
                self.config = config

            def save(self, engine_dir: str):
                pass

        def build(model: PretrainedModel, build_config: BuildConfig) -> Engine:
            pass

        def get_engine_version(engine_dir: str):
            pass
    """,
    "tensorrt_llm/llmapi/utils.py": """
        class StrictBaseModel(BaseModel):
            pass
    """,
    "tensorrt_llm/models/__init__.py": """
        from .chatglm.model import ChatGLMForCausalLM
        from .llama.model import LLaMAForCausalLM
        from .modeling_utils import PretrainedConfig, PretrainedModel
        from .qwen.model import *
    """,
    "tensorrt_llm/models/qwen/model.py": """
        from ..modeling_utils import DecoderModelForCausalLM
        from .config import QWenConfig

        class QWenForCausalLM(DecoderModelForCausalLM):
            @classmethod
            def from_hugging_face(cls, hf_model_or_dir, dtype: str = 'auto', mapping: Optional[Mapping] = None,
                                  quant_config: Optional[QuantConfig] = None, **kwargs):
                load_model_on_cpu = kwargs.pop('load_model_on_cpu', False)
                use_autoawq = kwargs.pop('use_autoawq', False)
                config = QWenConfig.from_hugging_face(hf_model_or_dir, **kwargs)
    """,
    "tensorrt_llm/models/qwen/config.py": """
        class QWenConfig:
            @classmethod
            def from_hugging_face(cls, hf_config_or_dir, **kwargs):
                trust_remote_code = kwargs.pop('trust_remote_code', True)
    """,
}
"""In upstream's forms: pydantic, names through imports and bases, **kwargs handed on. The rest is the contract's."""


def a_wheel(folder: Path, change: Sources | None = None) -> Path:
    """Of the contract's stubs, with the sources above in place of some, and with `change`."""
    files = {f.relative_to(STUBS).as_posix(): f.read_text("utf-8") for f in STUBS.rglob("*.pyi")}
    for name, text in LIKE_UPSTREAM.items():
        files.pop(name + "i", None)
        files[name] = _dedented(text)
    for family, class_name in (("chatglm", "ChatGLMForCausalLM"), ("llama", "LLaMAForCausalLM")):
        stub = (STUBS / "tensorrt_llm/models/__init__.pyi").read_text("utf-8") + "\nclass "
        start = stub.index(f"class {class_name}")
        body = stub[start : stub.index("\nclass ", start)]
        files[f"tensorrt_llm/models/{family}/model.pyi"] = "from ..modeling_utils import PretrainedModel\n" + body
    utils = files["tensorrt_llm/models/modeling_utils.pyi"]
    files["tensorrt_llm/models/modeling_utils.pyi"] = utils + "\nclass DecoderModelForCausalLM(PretrainedModel): ...\n"
    files["tensorrt_llm/bindings.cpython-312-x86_64-linux-gnu.so"] = ""
    files.update(change or {})
    path = folder / "tensorrt_llm-1.2.1-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            if text != LEFT_OUT:
                wheel.writestr(name, text)
    return path


LEFT_OUT = "left out"


def _dedented(text: str) -> str:
    return "\n".join(line[8:] if line.startswith(" " * 8) else line for line in text.splitlines())


def changed(folder: Path, file: str, old: str, new: str) -> Findings:
    """What is found where `old` in one file is `new`."""
    with zipfile.ZipFile(a_wheel(folder)) as wheel:
        text = wheel.read(file).decode()
    assert old in text
    return verify(Wheel(a_wheel(folder, {file: text.replace(old, new)})))


def said(findings: Findings) -> list[str]:
    return [f"{each.name} {each.what}" for each in findings.differences]


def test_the_contract_agrees_with_itself() -> None:
    findings = verify(Folder(STUBS, "tensorrt_llm"))
    assert findings.differences == findings.unread == ()
    assert findings.names > 30


def test_a_wheel_in_upstreams_own_forms_agrees(tmp_path: Path) -> None:
    findings = verify(Wheel(a_wheel(tmp_path)))
    assert findings.differences == findings.unread == ()


EXECUTOR = "tensorrt_llm/bindings/executor.pyi"
BUILDER = "tensorrt_llm/builder.py"


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        (BUILDER, "def build(", "def make(", "builder.build is missing"),
        (BUILDER, "def build(", "build = 1\ndef other(", "builder.build is no function"),
        (BUILDER, "max_batch_size: int = Field(2048)", "max_batch_size: int = Field(256)",
         "builder.BuildConfig has 256 as default of parameter max_batch_size, not 2048"),
        (BUILDER, "max_input_len: int = Field(default=1024, ", "max_input_len: int = Field(..., ",
         "builder.BuildConfig requires parameter max_input_len, which has the default 1024 in the contract"),
        (BUILDER, "    opt_batch_size: int = 8", "    opt_batch_size: int",
         "builder.BuildConfig requires a parameter opt_batch_size that the contract does not have"),
        (BUILDER, "    input_timing_cache: Optional[str] = None\n", "",
         "builder.BuildConfig.input_timing_cache is missing"),
        (BUILDER, "save(self, engine_dir: str)", "save(self, folder: str)",
         "builder.Engine.save has no parameter engine_dir"),
        (EXECUTOR, "    MAX_UTILIZATION = 0\n", "",
         "bindings.executor.CapacitySchedulerPolicy.MAX_UTILIZATION is missing"),
        (EXECUTOR, "max_queue_size: int | None = None,", "queue_size: int | None = None,",
         "bindings.executor.ExecutorConfig has no parameter max_queue_size"),
        (EXECUTOR, "CapacitySchedulerPolicy = CapacitySchedulerPolicy.GUARANTEED_NO_EVICT",
         "CapacitySchedulerPolicy = CapacitySchedulerPolicy.MAX_UTILIZATION",
         "bindings.executor.SchedulerConfig has CapacitySchedulerPolicy.MAX_UTILIZATION as default of "
         "parameter capacity_scheduler_policy, not CapacitySchedulerPolicy.GUARANTEED_NO_EVICT"),
        (EXECUTOR, "self, request: Request) -> int", "self, request: Request, /) -> int",
         "bindings.executor.Executor.enqueue_request does not take parameter request by keyword"),
        (EXECUTOR, "    end_id: int | None\n",
         "    @property\n    def end_id(self) -> int | None: ...\n",
         "bindings.executor.Request.end_id cannot be set"),
        (EXECUTOR, "        input_token_ids: Sequence[int],\n        max_tokens: int,",
         "        max_tokens: int,\n        input_token_ids: Sequence[int],",
         "bindings.executor.Request has parameter max_tokens at another place, or by keyword only"),
        ("tensorrt_llm/plugin.pyi", "tokens_per_block: int = 32", "tokens_per_block: int = 64",
         "plugin.PluginConfig.tokens_per_block is 64 by default, not 32"),
        ("tensorrt_llm/models/qwen/model.py", "'use_autoawq', False", "'use_autoawq', True",
         "models.QWenForCausalLM.from_hugging_face has True as default of parameter use_autoawq, not False"),
        ("tensorrt_llm/models/qwen/model.py", "@classmethod\n", "@staticmethod\n",
         "models.QWenForCausalLM.from_hugging_face is no class method"),
        ("tensorrt_llm/version.py", "1.2.1", "1.1.0", "__version__ is '1.1.0', not '1.2.1'"),
    ],
)  # fmt: skip
def test_a_difference_is_told_in_words(tmp_path: Path, file: str, old: str, new: str, expected: str) -> None:
    assert f"tensorrt_llm.{expected}" in said(changed(tmp_path, file, old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (EXECUTOR, " = SchedulerConfig(),", " = ...,"),
        (EXECUTOR, "BatchingType = BatchingType.INFLIGHT",
         "BatchingType = tensorrt_llm.bindings.executor.BatchingType.INFLIGHT"),
        (EXECUTOR, "normalize_log_probs: bool = True,", "normalize_log_probs: bool = True, more: int = 0,"),
        (BUILDER, "1024", "1_024"),
    ],
)  # fmt: skip
def test_what_means_the_same_or_is_more_is_no_difference(tmp_path: Path, file: str, old: str, new: str) -> None:
    assert changed(tmp_path, file, old, new).differences == ()


def test_a_version_without_engines_lacks_whole_modules(tmp_path: Path) -> None:
    findings = verify(Wheel(a_wheel(tmp_path, {BUILDER: LEFT_OUT, EXECUTOR: LEFT_OUT})))
    assert {"tensorrt_llm.builder is missing", "tensorrt_llm.bindings.executor is missing"} <= set(said(findings))


def test_what_is_compiled_and_has_no_stub_cannot_be_read_here(tmp_path: Path) -> None:
    findings = verify(Wheel(a_wheel(tmp_path, {EXECUTOR: LEFT_OUT, "tensorrt_llm/bindings/__init__.pyi": LEFT_OUT})))
    assert findings.differences == ()
    (unread,) = findings.unread
    assert unread.name == "tensorrt_llm.bindings.executor"
    assert unread.what == "cannot be read here: tensorrt_llm.bindings is compiled, and no .pyi lies beside it"


def test_options_that_are_handed_on_to_somewhere_else_are_a_doubt(tmp_path: Path) -> None:
    findings = changed(tmp_path, "tensorrt_llm/models/qwen/config.py", "kwargs.pop('trust_remote_code', True)", "True")
    assert findings.differences == ()
    assert [(each.name, each.what) for each in findings.unread] == [
        ("tensorrt_llm.models.QWenForCausalLM.from_hugging_face",
         "takes parameter trust_remote_code, if at all, out of **kwargs elsewhere"),
    ]  # fmt: skip


def test_every_fact_of_the_contract_has_a_source_and_how_sure_it_is() -> None:
    tree = contract()
    for module in tree.modules():
        for name in module.names:
            found = tree.find(module.name, name)
            if found is not None:
                assert source(getattr(found.definition, "document", ""), found.module.document).endswith(
                    ("[H]", "[M]", "[L]")
                ), f"{module.name}.{name}"


def test_the_command_prints_differences_with_sources_and_says_so_by_its_exit_code(tmp_path: Path) -> None:
    run = CliRunner().invoke
    good = run(app, ["verify-tensorrt-llm", "--wheel", str(a_wheel(tmp_path))])
    assert (good.exit_code, good.stdout.count("\n")) == (0, 1), good.stdout
    assert "0 differences, 0 that cannot be read here" in good.stdout
    no_stubs = a_wheel(tmp_path, {EXECUTOR: LEFT_OUT, "tensorrt_llm/bindings/__init__.pyi": LEFT_OUT})
    assert run(app, ["verify-tensorrt-llm", "--wheel", str(no_stubs)]).exit_code == 3
    bad = a_wheel(tmp_path, {"tensorrt_llm/version.py": '__version__ = "1.3.0"'})
    with zipfile.ZipFile(bad) as wheel:
        wheel.extractall(tmp_path / "site")
    differs = run(app, ["verify-tensorrt-llm", "--site-packages", str(tmp_path / "site")])
    assert differs.exit_code == 1
    assert "tensorrt_llm.__version__ is '1.3.0', not '1.2.1'\n    contract: tensorrt_llm/" in differs.stdout


def test_what_is_no_tensorrt_llm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tensorrt_llm is there"):
        verify(Folder(tmp_path, "tensorrt_llm"))
    (tmp_path / "x.whl").write_text("no zip")
    with pytest.raises(ConfigError, match=r"x\.whl cannot be read as a wheel"):
        Wheel(tmp_path / "x.whl")
    for options in ([], ["--wheel", "x", "--site-packages", "y"]):
        result = CliRunner().invoke(app, ["verify-tensorrt-llm", *options])
        assert isinstance(result.exception, ConfigError)
