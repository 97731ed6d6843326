"""Mixture of experts by the kernels: who goes where and with what weight, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmserve.ops.packed import PackedMatrix, padded, to_panels
from tests.numerics.kernel_program import (
    SEEDS,
    SETS,
    THREADS,
    Rows,
    Weights,
    at,
    convert,
    every_set,
    exact,
    expected_rows,
    generator,
    handle,
    kernels,
    multiply,
    new_rows,
    panels_of,
    random_activations,
    random_matrix,
    run,
    same_bits,
)

KINDS = [
    Weights("u8"), *(Weights("u4", group, zero) for group in (32, 64) for zero in (False, True)), Weights("bf16"),
    Weights("f16"), Weights("f32"),
]  # fmt: skip
every_kind = pytest.mark.parametrize("how", KINDS, ids=str)


# ---------------------------------------------------------------------------------------------------------- routing


@dataclass(frozen=True)
class Routing:
    experts: int
    per_token: int
    renormalise: bool = False
    shared: bool = False

    def routes(self, tokens: int) -> Any:
        return kernels.Routes(
            experts=self.experts, per_token=self.per_token, renormalise=self.renormalise, max_tokens=tokens
        )

    def expected(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """outputs [T, experts (+ 1)] → (chosen [T, per token], their weights, the shared one's [T]), fp64."""
        logits = outputs[:, : self.experts].double()
        order = logits.argsort(dim=1, descending=True, stable=True)
        chosen = order[:, : self.per_token].sort(dim=1).values
        weights = logits.softmax(dim=1).gather(1, chosen)
        if self.renormalise:
            weights = weights / weights.sum(dim=1, keepdim=True)
        return chosen, weights, outputs[:, -1].double().sigmoid()


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    experts = draw(st.integers(1, 12) | st.just(70))
    return Routing(experts, draw(st.integers(1, min(experts, 8))), draw(st.booleans()), draw(st.booleans()))


def route(isa: str, threads: int, routing: Routing, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `Routing.expected`, by the kernels, fp32.

    Expert e's matrix is made to say e, and a token its own number; what is put together has a column for every slot.
    """
    tokens, k = len(outputs), routing.per_token
    slots = tokens * k
    x = torch.zeros(tokens, 32)
    x[:, 0], x[:, 1] = 1, torch.arange(tokens)
    weight = torch.zeros(routing.experts, 32, 32)
    weight[:, 0, 0], weight[:, 1, 1] = torch.arange(routing.experts), 1
    packed = PackedMatrix("f32", routing.experts * 32, 32, to_panels("f32", weight.flatten(0, 1)))
    gathered, said = new_rows("f32", slots, 32), torch.full((slots, 32), torch.nan)
    width = padded(slots + 1)
    columns, shared = torch.eye(slots, width), torch.zeros(tokens, width)
    shared[:, slots] = 1
    out = torch.full((tokens, width), torch.nan)

    def record(p: Any) -> None:
        routes = routing.routes(tokens)
        p.choose(routes=routes, outputs=at(outputs), stride=outputs.shape[1], with_shared=routing.shared)
        p.gather(routes=routes, x=Rows("f32", x).handle, out=gathered.handle)
        p.experts_down(routes=routes, x=gathered.handle, w=handle(packed), y=at(said), stride=32)
        p.combine(routes=routes, given=at(columns), shared=at(shared) if routing.shared else 0, out=at(out), cols=width)

    run(isa, threads, tokens, record)
    assert (said[:, 0].diff() >= 0).all()  # the slots of an expert lie together, …
    assert (said.diff(dim=0)[said[:, 0].diff() == 0, 1] > 0).all()  # … in the order of tokens
    mine = [(said[:, 1] == t).nonzero()[:, 0] for t in range(tokens)]
    return (
        torch.stack([said[slots, 0] for slots in mine]).long(),
        torch.stack([out[t, slots] for t, slots in enumerate(mine)]),
        out[:, slots].clone(),
    )


@every_set
@given(routings(), st.integers(1, 30), st.sampled_from([0.0, 1.0, 3.0, 40.0]), st.booleans(), st.data(), SEEDS)
@settings(max_examples=60, deadline=None)
@example(Routing(4, 2), 5, 0.0, True, None, 1)
def test_routing(
    isa: str, routing: Routing, tokens: int, size: float, ties: bool, data: st.DataObject | None, seed: int
) -> None:
    """Softmax over all experts, the largest of them, of equals the first; the same bits in any company."""
    outputs = size * torch.randn(tokens, routing.experts + routing.shared, generator=generator(seed))
    outputs = outputs.round() if ties else outputs
    threads = [2, 3] if data is None else [data.draw(THREADS), data.draw(THREADS)]
    chosen, weights, shared = route(isa, threads[0], routing, outputs)
    right = routing.expected(outputs)
    assert torch.equal(chosen, right[0])
    torch.testing.assert_close(weights.double(), right[1], rtol=2e-6 * max(1.0, size), atol=1e-37)
    if routing.shared:
        torch.testing.assert_close(shared.double(), right[2], rtol=4e-7, atol=1e-37)
    some = torch.randperm(tokens, generator=generator(seed))[: 1 + tokens // 2]
    for together, apart in zip((chosen, weights, shared), route(isa, threads[1], routing, outputs[some]), strict=True):
        assert same_bits(apart, together[some].contiguous())


@pytest.mark.parametrize("isa", SETS[:1])
def test_more_experts_a_token_than_there_are_is_refused(isa: str) -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match="1 … all"):
            route(isa, 1, Routing(4, k), torch.zeros(1, 4))


@pytest.mark.parametrize("isa", SETS[:1])
def test_routes_of_fewer_tokens_than_a_step_has_are_refused(isa: str) -> None:
    outputs = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="routes of 2 tokens will not do for a step of 3"):
        run(isa, 1, 3, lambda p: p.choose(
            routes=Routing(4, 1).routes(2), outputs=at(outputs), stride=4, with_shared=False
        ))  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the block


@dataclass(frozen=True)
class Block:
    """One layer's experts, whose matrices lie one after the other. hidden is padded, inner a multiple of 32."""

    routing: Routing
    how: Weights
    hidden: int
    inner: int
    activation: str = "silu"
    seed: int = 0

    @property
    def gate_up(self) -> PackedMatrix:
        return random_matrix(self.how, self.routing.experts * 2 * self.inner, self.hidden, self.seed)

    @property
    def down(self) -> PackedMatrix:
        return random_matrix(self.how, self.routing.experts * padded(self.hidden), self.inner, self.seed + 1)

    def run(
        self, isa: str, threads: int, x: Rows, outputs: Tensor, shared: Tensor | None, inner_form: str = "f32"
    ) -> Tensor:
        """x [T, hidden], outputs of the router [T, …], shared [T, padded hidden] → [T, padded hidden]."""
        tokens, slots, width = len(x.data), len(x.data) * self.routing.per_token, padded(self.hidden)
        gate_up, down = self.gate_up, self.down
        gathered, inner = new_rows(x.kind, slots, self.hidden), new_rows(inner_form, slots, self.inner)
        given, out = torch.full((slots, width), torch.nan), torch.full((tokens, width), torch.nan)

        def record(p: Any) -> None:
            routes = self.routing.routes(tokens)
            p.choose(routes=routes, outputs=at(outputs), stride=outputs.shape[1], with_shared=self.routing.shared)
            p.gather(routes=routes, x=x.handle, out=gathered.handle)
            p.experts_gated(
                routes=routes, x=gathered.handle, w=handle(gate_up), y=inner.handle, activation=self.activation
            )
            p.experts_down(routes=routes, x=inner.handle, w=handle(down), y=at(given), stride=width)
            p.combine(routes=routes, given=at(given), shared=at(shared), out=at(out), cols=width)

        run(isa, threads, tokens, record)
        return out

    def by_expert(self, isa: str, x: Rows, outputs: Tensor, inner_form: str) -> Tensor:
        """What each token's experts give it, [T, per token, padded hidden], by the kernels of any other matrix, from
        weights in memory of their own."""
        chosen, _, _ = self.routing.expected(outputs)
        gates, outs = 2 * self.inner // 32, padded(self.hidden) // 32
        gate_up, down = self.gate_up, self.down
        given = torch.full((*chosen.shape, padded(self.hidden)), torch.nan)
        for e in set(chosen.flatten().tolist()):
            tokens, place = (chosen == e).nonzero(as_tuple=True)
            mine, inner = rows_of(x, tokens), new_rows(inner_form, len(tokens), self.inner)
            w = panels_of(gate_up, e * gates, gates)

            def record(p: Any, mine: Rows = mine, w: PackedMatrix = w, inner: Rows = inner) -> None:
                p.gated(x=mine.handle, w=handle(w), bias=0, y=inner.handle, activation=self.activation)

            run(isa, 1, len(tokens), record)
            given[tokens, place] = multiply(isa, 1, inner, panels_of(down, e * outs, outs))
        return given

    def expected(self, x: Tensor, outputs: Tensor, shared: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what comes out of x [T, hidden], what was summed up to it), fp64, by the exact weights."""
        chosen, weights, shared_weight = self.routing.expected(outputs)
        gate_up = exact(self.gate_up).unflatten(0, (self.routing.experts, 2, self.inner))
        down = exact(self.down).unflatten(0, (self.routing.experts, padded(self.hidden)))
        act = {"silu": torch.nn.functional.silu, "gelu_tanh": lambda v: torch.nn.functional.gelu(v, approximate="tanh")}
        out = torch.zeros(len(x), padded(self.hidden), dtype=torch.float64)
        size = torch.zeros_like(out)
        for t, e, weight in zip(
            torch.arange(len(x)).repeat_interleave(chosen.shape[1]), chosen.flatten(), weights.flatten(), strict=True
        ):
            gate, up = gate_up[e] @ x[t]
            gate_size, up_size = gate_up[e].abs() @ x[t].abs()
            inner = act[self.activation](gate) * up
            out[t] += weight * (down[e] @ inner)
            size[t] += weight * (down[e].abs() @ (gate_size * up.abs() + gate.abs() * up_size + inner.abs()))
        if shared is not None:
            out += shared_weight[:, None] * shared
            size += shared_weight[:, None] * shared.abs()
        return out, size


def added(isa: str, weights: Tensor, parts: Tensor) -> Tensor:
    """weights [T, n], parts [T, n, width] fp32 → their sum in the order of n, each product added with one rounding."""
    total = np.zeros_like(parts[:, 0].numpy())
    for w, part in zip(weights.T.numpy()[:, :, None], parts.transpose(0, 1).numpy(), strict=True):
        if isa == "portable":  # which has no such instruction
            total = total + w * part
        else:  # 64 bits hold the product, and nearly always a sum whose rounding is the exact one's
            total = (total + w.astype(np.longdouble) * part).astype(np.float32)
    return torch.from_numpy(total)


def rows_of(x: Rows, some: Tensor) -> Rows:
    return Rows(x.kind, *(None if t is None else t[some].clone() for t in (x.data, x.scale, x.sums)))  # type: ignore[arg-type]


@st.composite
def blocks(draw: st.DrawFn, how: Weights) -> Block:
    experts = draw(st.integers(1, 7))
    routing = Routing(experts, draw(st.integers(1, min(experts, 4))), draw(st.booleans()), draw(st.booleans()))
    hidden = draw(st.sampled_from([64, 128, 48, 97, 50]))
    if how.group:
        hidden = -(-hidden // how.group) * how.group - hidden % 16  # the last group may be of padding in part
    inner = 64 * draw(st.integers(1, 2)) if how.group == 64 else 32 * draw(st.integers(1, 3))
    return Block(routing, how, hidden, inner, draw(st.sampled_from(["silu", "gelu_tanh"])), draw(SEEDS))


def inputs(block: Block, tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x, outputs of the router, what the shared expert gave)."""
    g = generator(block.seed + 2)
    outputs = 2 * torch.randn(tokens, block.routing.experts + block.routing.shared, generator=g)
    shared = torch.randn(tokens, padded(block.hidden), generator=g) if block.routing.shared else None
    return random_activations(tokens, block.hidden, block.seed + 3), outputs, shared


@every_set
@every_kind
@given(st.data(), st.integers(1, 25))
@settings(max_examples=10, deadline=None)
def test_experts(isa: str, how: Weights, data: st.DataObject, tokens: int) -> None:
    """Against sums of exact weights; and bit for bit the sum of what each expert's own matrices alone would give."""
    block = data.draw(blocks(how))
    x, outputs, shared = inputs(block, tokens)
    rows = expected_rows(data.draw(st.sampled_from(how.forms)), x)
    got = block.run(isa, data.draw(THREADS), rows, outputs, shared)
    right, size = block.expected(rows.values()[:, : block.hidden], outputs, shared)
    assert ((got - right).abs() <= 3e-6 * size + 1e-30).all()
    inner_form = data.draw(st.sampled_from(how.forms))
    got = block.run(isa, data.draw(THREADS), rows, outputs, None, inner_form)
    _, weights, _ = route(isa, 1, block.routing, outputs)
    assert same_bits(got, added(isa, weights, block.by_expert(isa, rows, outputs, inner_form)))


@every_set
@every_kind
@given(st.data(), st.integers(2, 60))
@settings(max_examples=8, deadline=None)
def test_a_token_is_the_same_in_any_company(isa: str, how: Weights, data: st.DataObject, tokens: int) -> None:
    block = data.draw(blocks(how))
    form, inner_form = (data.draw(st.sampled_from(how.forms)) for _ in range(2))
    x, outputs, shared = inputs(block, tokens)
    together = block.run(isa, data.draw(THREADS), convert(isa, 1, x, form), outputs, shared, inner_form)
    for some in (data.draw(st.lists(st.integers(0, tokens - 1), min_size=1, max_size=20)), [tokens - 1]):
        apart = block.run(
            isa, data.draw(THREADS), convert(isa, 1, x[some], form), outputs[some],
            None if shared is None else shared[some], inner_form,
        )  # fmt: skip
        assert same_bits(apart, together[some])


@every_set
@pytest.mark.parametrize("how", [Weights("u8"), Weights("f32")], ids=str)
def test_more_rows_of_an_expert_than_a_cache_holds(isa: str, how: Weights) -> None:
    """They are multiplied in blocks, whose borders depend on how many go to the expert."""
    block = Block(Routing(3, 2), how, 4096, 32, seed=5)
    x, outputs, _ = inputs(block, 130 if isa != "portable" else 60)
    outputs[:, 2] = -9  # nobody goes there: all to the two others
    form = how.forms[-1]
    together = block.run(isa, 3, convert(isa, 1, x, form), outputs, None)
    for some in (torch.arange(17, len(x)), torch.tensor([49]), torch.arange(31)):
        assert same_bits(block.run(isa, 2, convert(isa, 1, x[some], form), outputs[some], None), together[some])


@every_set
@every_kind
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_with_its_token(isa: str, how: Weights, bad: float) -> None:
    """In the activations, in the router's outputs, in what the shared expert gave: that token alone is none."""
    block = Block(Routing(5, 2, shared=True), how, 64, 64, seed=1)
    for form in how.forms:
        x, outputs, shared = inputs(block, 9)
        assert shared is not None
        clean = block.run(isa, 2, convert(isa, 1, x, form), outputs, shared, form)
        x[1, 50] = bad
        outputs[3, 2] = torch.nan if bad < 0 else bad  # a logit of -inf is one: of an expert that is never chosen
        outputs[4] = bad
        shared[6] = bad
        outputs[8, 5] = torch.nan
        got = block.run(isa, 2, convert(isa, 1, x, form), outputs, shared, form)
        assert not got[[1, 3, 4, 6, 8]].isfinite().any()
        assert same_bits(got[[0, 2, 5, 7]], clean[[0, 2, 5, 7]])


@pytest.mark.parametrize("isa", SETS[:1])
def test_matrices_that_do_not_hold_the_experts_are_refused(isa: str) -> None:
    x, outputs = expected_rows("f32", torch.zeros(1, 64)), torch.zeros(1, 5)
    w = random_matrix(Weights("f32"), 5 * 64, 64, 1)
    narrow, wide, y = new_rows("f32", 2, 32), new_rows("f32", 2, 64), torch.zeros(2, 96)

    def refused(match: str, operation: str, experts: int = 5, **arguments: Any) -> None:
        def record(p: Any) -> None:
            routes = Routing(experts, 2).routes(1)
            p.choose(routes=routes, outputs=at(outputs), stride=5, with_shared=False)
            getattr(p, operation)(routes=routes, **arguments)

        with pytest.raises(ValueError, match=match):
            run(isa, 1, 1, record)

    refused("320 rows is not that of 4 experts", "experts_down", 4, x=wide.handle, w=handle(w), y=at(y), stride=64)
    refused("320 rows is not that of 5 experts with 96", "experts_down", x=wide.handle, w=handle(w), y=at(y), stride=96)
    refused("5 experts with 128", "experts_gated", x=x.handle, w=handle(w), y=wide.handle, activation="silu")
    refused("32 columns", "experts_gated", x=narrow.handle, w=handle(w), y=narrow.handle, activation="silu")
    refused("'relu'", "experts_gated", x=x.handle, w=handle(w), y=narrow.handle, activation="relu")
    refused("in the form that they have", "gather", x=x.handle, out=narrow.handle)
    refused("in the form that they have", "gather", x=x.handle, out=new_rows("bf16", 2, 64).handle)
