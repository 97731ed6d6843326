"""KServe v2 through Triton's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from llmserve.engine.messages import Draining, Loading, Submit

from .conftest import TEXT, TOKENIZER, Front, running_front
from .fake_engine import READY, wait_for


@pytest.fixture
def triton(front: Front) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(front.url.removeprefix("http://"))
    yield client
    client.close()


def tensor(name: str, values: np.ndarray, datatype: str, *, binary: bool = True) -> InferInput:
    made = InferInput(name, values.shape, datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def texts(*given: str, shape: tuple[int, ...] = (-1, 1), binary: bool = True) -> InferInput:
    return tensor("text_input", np.array(given, dtype=object).reshape(shape), "BYTES", binary=binary)


def completion(front: Front, prompt: Any, **body: Any) -> list[str]:
    return [choice["text"] for choice in front.complete(prompt=prompt, **body)["choices"]]


def test_what_the_server_says_of_itself(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", "1")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["name"] == "llmserve"
    metadata, config = triton.get_model_metadata("tiny"), triton.get_model_config("tiny", "1")
    assert metadata["versions"] == ["1"]
    for told, configured in (("inputs", "input"), ("outputs", "output")):
        named = {each["name"]: each["datatype"] for each in metadata[told]}
        assert named == {
            each["name"]: each["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
            for each in config[configured]
        }
        assert all(each["shape"] == [-1, 1] for each in metadata[told])
    assert [each["name"] for each in config["input"] if not each["optional"]] == ["text_input"]
    assert config["max_batch_size"] == 1024


def test_the_one_model_of_the_repository(triton: InferenceServerClient) -> None:
    assert triton.get_model_repository_index() == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]
    triton.load_model("tiny")
    with pytest.raises(InferenceServerException, match="one model"):
        triton.unload_model("tiny")
    with pytest.raises(InferenceServerException, match="is not served here"):
        triton.load_model("other")
    with pytest.raises(InferenceServerException, match="config is not supported"):
        triton.load_model("tiny", config="{}")


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_infer_is_a_completion(triton: InferenceServerClient, front: Front, binary_in: bool, binary_out: bool) -> None:
    prompts = ["hi", "明月"]
    inputs = [
        texts(*prompts, binary=binary_in),
        tensor("max_tokens", np.array([[9], [9]], dtype=np.int32), "INT32", binary=binary_in),
        tensor("temperature", np.array([0.5], dtype=np.float32), "FP32", binary=binary_in),
        tensor("seed", np.array([[3]], dtype=np.int64), "INT64", binary=binary_in),
        tensor("ignore_eos", np.array([[True]]), "BOOL", binary=binary_in),
        tensor("stop", np.array(["never", "世"], dtype=object), "BYTES", binary=binary_in),
    ]
    outputs = [
        InferRequestedOutput(name, binary_data=binary_out)
        for name in ("num_output_tokens", "text_output", "finish_reason")
    ]
    result = triton.infer("tiny", inputs, outputs=outputs, request_id="mine")
    assert result.get_response()["id"] == "mine"
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("tiny", "1")
    answers = [text.decode() if binary_out else text for text in result.as_numpy("text_output").reshape(-1)]
    assert answers == completion(front, prompts, seed=3, max_tokens=9)
    assert result.as_numpy("num_output_tokens").tolist() == [[9], [9]]
    assert result.as_numpy("num_output_tokens").dtype == np.int32
    assert result.as_numpy("text_output").shape == result.as_numpy("finish_reason").shape == (2, 1)
    sent = [m.request.sampling for m in front.engine.received if isinstance(m, Submit)][:2]
    assert all((each.temperature, each.max_tokens) == (0.5, 9) for each in sent)
    assert not any(each.stop_token_ids for each in sent)


def test_parameters_may_be_the_requests_own_and_all_outputs_come_where_none_are_named(
    triton: InferenceServerClient, front: Front
) -> None:
    result = triton.infer(
        "tiny", [texts("hi", shape=(1,))], model_version="1", priority=2, timeout=5_000_000,
        parameters={"max_tokens": 4, "seed": 1},
    )  # fmt: skip
    assert result.as_numpy("text_output").tolist() == [
        text.encode() for text in completion(front, "hi", max_tokens=4, seed=1)
    ]
    assert result.as_numpy("finish_reason").tolist() == [b"length"]
    assert result.as_numpy("num_output_tokens").tolist() == [4]
    request = front.engine.seen(Submit).request
    assert (request.priority, request.timeout) == (2, 5.0)


def test_the_default_is_as_many_tokens_as_of_a_completion(triton: InferenceServerClient) -> None:
    assert triton.infer("tiny", [texts("hi")]).as_numpy("num_output_tokens").tolist() == [[16]]


def test_statistics_count_what_came_this_way(triton: InferenceServerClient, front: Front) -> None:
    def stats() -> dict[str, Any]:
        [told] = triton.get_inference_statistics("tiny", "1")["model_stats"]
        return told

    before = stats()
    front.complete()
    triton.infer("tiny", [texts("a", "b")])
    with pytest.raises(InferenceServerException):
        triton.infer("tiny", [texts("a", "")])
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    succeeded = [each["inference_stats"]["success"] for each in (before, after)]
    assert succeeded[1]["count"] - succeeded[0]["count"] == 1
    assert succeeded[1]["ns"] > succeeded[0]["ns"]
    assert after["inference_stats"]["fail"] == before["inference_stats"]["fail"]


def test_the_answer_is_text_that_holds_whole_characters(triton: InferenceServerClient, front: Front) -> None:
    front.engine.script = lambda request: TOKENIZER.encode(TEXT, add_special_tokens=False)
    count = len(TOKENIZER.encode(TEXT, add_special_tokens=False))
    result = triton.infer("tiny", [texts("hi")], parameters={"max_tokens": count})
    assert result.as_numpy("text_output")[0, 0].decode() == TEXT


def test_a_server_that_loads_or_leaves_says_so(endpoint: str) -> None:
    with running_front(endpoint, ready=False) as front:
        client = InferenceServerClient(front.url.removeprefix("http://"))
        front.engine.say(Loading("loading", 1, 2))
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("tiny")
        [entry] = client.get_model_repository_index()
        assert (entry["state"], "loading" in entry["reason"]) == ("LOADING", True)
        for wish in (lambda: client.infer("tiny", [texts("hi")]), lambda: client.load_model("tiny")):
            with pytest.raises(InferenceServerException, match="still loading") as caught:
                wish()
            assert caught.value.status() == "503"
        front.engine.say(READY)
        wait_for(client.is_server_ready)
        front.engine.say(Draining())
        wait_for(lambda: not client.is_server_ready())
        assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
        client.close()
