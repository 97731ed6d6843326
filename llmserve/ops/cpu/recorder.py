"""`Ops` as a recorder: what a model calls becomes a program, with a place in memory for every array.

A model's forward runs once, at load. Each call notes an operation and returns the array that will hold its result.
When all is noted, `lower` knows who reads what, in which form (fp32, bf16, or int8 with scales) and for how long:
arrays that are never needed at the same time share memory, norms and gates write the form that the next matrix wants,
and a matrix multiplication finds its input quantised already.

Several ranks of one host add up their parts in shared memory (`team`): each writes its own, all meet, and the next norm
reads everybody's. A norm's rows are shared out too: each rank does some, and all meet before they read them. Over
several hosts the program pauses and its caller adds up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from llmserve.ops import Cache, Heads, Normalisation, Rotation, Routing
from llmserve.ops.cpu import InstructionSet, load_kernels
from llmserve.ops.cpu.arrays import Angles, Array, Form, Operation, Place, Routed, Weight
from llmserve.ops.cpu.shared import SharedArea
from llmserve.ops.packed import Kind, PackedMatrix, padded

Activations = Literal["auto", "int8", "bfloat16", "float32"]

_GROUP = 32
"""Activations that share a scale (csrc/matrix.hpp)."""


class Recorder:
    """See `llmserve.ops.Ops` for what each operation computes."""

    def __init__(
        self,
        program: Any,
        isa: InstructionSet,
        activations: Activations,
        max_tokens: int,
        team: Any,
        shared: SharedArea,
        rank: int,
        size: int,
    ) -> None:
        """`program`: kernels.Program, empty. `team`: kernels.Team, or None where ranks do not share memory."""
        self.sums: list[Place] = []
        """What the program's pauses are for, in order: the caller adds up so many `paused_rows` over all ranks."""
        self._kernels = load_kernels()
        self._program = program
        self._isa = isa
        self._activations = activations
        self._max_tokens = max_tokens
        self._team = team
        self._shared = shared
        self._rank = rank
        self._size = size
        self._operations: list[Operation] = []
        self._sums_recorded = 0
        self._norms_recorded = 0
        self._kept: list[Any] = []
        self._routes: dict[Routing, Any] = {}  # kernels.Routes
        forms = {"s8": "int8", "bf16": "bfloat16", "f32": "float32"}
        self.name = f"CPU kernels ({isa.name}), quantised weights times {forms[self._form('u8')]}"

    # ------------------------------------------------------------------------------------------ parameters

    def matrix(self, packed: PackedMatrix) -> Weight:
        keep = tuple(t for t in (packed.weight, packed.scale, packed.zero) if t is not None)
        matrix = self._kernels.matrix(
            packed.kind, padded(packed.rows), padded(packed.cols), packed.weight.data_ptr(), packed.group_size,
            packed.scale.data_ptr() if packed.scale is not None else 0,
            packed.zero.data_ptr() if packed.zero is not None else 0,
        )  # fmt: skip
        return Weight(keep, matrix, packed)

    def tensor(self, stored: Tensor) -> Weight:
        if stored.dim() == 2:
            kind = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[stored.dtype]
            rows, cols = stored.shape
            return Weight((stored,), self._kernels.matrix(kind, rows, cols, stored.data_ptr()))
        wide = torch.zeros(padded(len(stored)), dtype=torch.float32)
        wide[: len(stored)] = stored
        return Weight((wide,), vector=wide)

    # ------------------------------------------------------------------------------------------ operations

    def embedding(self, table: Weight, first: int, scale: float, positions: Weight | None) -> Array:
        rows, size = (table.packed.rows, table.packed.cols) if table.packed else table.keep[0].shape
        out = Array(size)
        self._note([], [out], lambda: self._program.embedding(
            table=table.matrix, by_row=table.packed is None, first=first, count=rows, size=size, out=self._at(out),
            cols=padded(size), scale=scale, positions=positions.matrix if positions else None,
        ))  # fmt: skip
        out.forms.setdefault("f32", 0)
        return out

    def all_reduce(self, x: Array) -> Array:
        if self._size == 1:
            return x
        if self._team is None:
            self._note([(x, "f32")], [], lambda: self._pause(x))
            return x
        x.shared_at = self._shared.sum(self._sums_recorded)
        self._sums_recorded += 1
        self._note([(x, "f32")], [], self._program.meet_ranks)
        return x

    def norm(self, x: Array, norm: Normalisation) -> tuple[Array, Array]:
        if self._team is None:
            return self._norm([], x, x, norm, None), x
        residual = Array(x.width)
        return self._norm([x], residual, residual, norm, None, fresh=True), residual

    def add_norm(
        self, x: Array, residual: Array, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Array, Array]:
        return self._norm([x], residual, residual, norm, post), residual

    def wanted_norm(
        self, x: Array, residual: Array, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Array, Array]:
        """The program has what follows compute these rows alone."""
        total = Array(x.width)
        return self._norm([x], residual, total, norm, post), total

    def last_norm(
        self, x: Array, residual: Array, norm: Normalisation, post: Normalisation | None
    ) -> tuple[Array, Array]:
        """One array for both: rows whose logits are wanted, then those that the head's instructions leave out."""
        out = self._norm([x], residual, None, norm, post)
        out.forms["f32"] = 0
        return out, out

    def angles(self, rotation: Rotation) -> Angles:
        inverse = rotation.inverse_frequencies.float().contiguous()
        pairs = inverse.shape[1]
        self._kept.append(inverse)
        cos, sin, growth = Array(pairs), Array(pairs), Array(1) if rotation.logn_from else None
        arrays = [cos, sin, *([growth] if growth else [])]
        for array in arrays:
            array.forms["f32"] = 0
        self._note([], arrays, lambda: self._program.angles(
            inverse=inverse.data_ptr(), pairs=pairs, cos=self._at(cos), sin=self._at(sin), factor=rotation.factor,
            logn_from=rotation.logn_from, growth=self._at(growth) if growth else 0,
        ))  # fmt: skip
        return Angles(cos, sin, growth)

    def attention(self, qkv: Array, heads: Heads, angles: Angles, cache: Cache) -> Array:
        q, out = Array(heads.heads * heads.head_dim), Array(heads.heads * heads.head_dim)
        q.forms["f32"] = out.forms["f32"] = 0
        norms = [n.weight.address if n is not None else 0 for n in (heads.q_norm, heads.k_norm)]
        eps = heads.q_norm.eps if heads.q_norm else 0.0
        growth = angles.growth
        turns = [angles.cos, angles.sin, *([growth] if growth else [])]
        self._note([(qkv, "f32"), *((a, "f32") for a in turns)], [q], lambda: self._program.rope(
            cache=cache, heads=heads.heads, qkv=self._at(qkv), stride=padded(qkv.width), q_norm=norms[0],
            k_norm=norms[1], eps=eps, cos=self._at(angles.cos), sin=self._at(angles.sin), q=self._at(q),
            growth=self._at(growth) if growth else 0,
        ))  # fmt: skip
        self._note([(q, "f32")], [out], lambda: self._program.attention(
            cache=cache, heads=heads.heads, window=heads.window or 0, q=self._at(q), out=self._at(out),
            scale=heads.scale, softcap=heads.softcap,
        ))  # fmt: skip
        return self._convertible(out, stride=out.width, activation="none")

    def linear(self, x: Array, weight: Weight, bias: Weight | None) -> Array:
        assert weight.packed is not None
        form = self._form(weight.packed.kind)
        out = Array(weight.packed.rows, of_logits=x.of_logits)
        out.forms["f32"] = 0
        x.forms.setdefault(form, 0)
        self._note([(x, form)], [out], lambda: self._program.gemm(
            x=self._rows(x, form), w=weight.matrix, bias=bias.address if bias else 0, y=self._at(out),
            stride=self._stride(out), of_logits=x.of_logits,
        ))  # fmt: skip
        return out

    def gated(self, x: Array, gate_up: Weight, bias: Weight | None, activation: str) -> Array:
        assert gate_up.packed is not None
        form = self._form(gate_up.packed.kind)
        out = Array(gate_up.packed.rows // 2)
        x.forms.setdefault(form, 0)
        self._note([(x, form)], [out], lambda: self._program.gated(
            x=self._rows(x, form), w=gate_up.matrix, bias=bias.address if bias else 0,
            y=self._rows(out, self._only_form(out)), activation=activation,
        ))  # fmt: skip
        return out

    def activate(self, x: Array, activation: str) -> Array:
        return self._convertible(x, stride=padded(x.width), activation=activation)

    def softcap(self, logits: Array, cap: float) -> Array:
        self._note([(logits, "f32")], [logits], lambda: self._program.softcap(
            y=self._at(logits), stride=self._stride(logits), cols=padded(logits.width), cap=cap
        ))  # fmt: skip
        return logits

    def route(self, x: Array, router: Weight, routing: Routing) -> Routed:
        outputs = self.linear(x, router, None)
        if routing not in self._routes:
            self._routes[routing] = self._kernels.Routes(
                experts=routing.experts, per_token=routing.per_token, renormalise=routing.renormalise,
                max_tokens=self._max_tokens,
            )  # fmt: skip
        routed = Routed(self._routes[routing], Array(1))
        self._note([(outputs, "f32")], [routed.order], lambda: self._program.choose(
            routes=routed.routes, outputs=self._at(outputs), stride=padded(outputs.width), with_shared=routing.shared
        ))  # fmt: skip
        return routed

    def experts(
        self, x: Array, routed: Routed, gate_up: Weight, down: Weight, shared: Array | None, routing: Routing
    ) -> Array:
        assert gate_up.packed is not None
        assert down.packed is not None
        routes, k = routed.routes, routing.per_token
        form, inner_form = self._form(gate_up.packed.kind), self._form(down.packed.kind)
        sorted_x, inner = Array(x.width, copies=k), Array(down.packed.cols, copies=k)
        given, out = Array(x.width, copies=k), Array(x.width)
        x.forms.setdefault(form, 0)
        sorted_x.forms[form] = inner.forms[inner_form] = given.forms["f32"] = out.forms["f32"] = 0
        order: tuple[Array, Form] = (routed.order, "f32")
        self._note([(x, form), order], [sorted_x], lambda: self._program.gather(
            routes=routes, x=self._rows(x, form), out=self._rows(sorted_x, form)
        ))  # fmt: skip
        self._note([(sorted_x, form), order], [inner], lambda: self._program.experts_gated(
            routes=routes, x=self._rows(sorted_x, form), w=gate_up.matrix, y=self._rows(inner, inner_form),
            activation=routing.activation,
        ))  # fmt: skip
        self._note([(inner, inner_form), order], [given], lambda: self._program.experts_down(
            routes=routes, x=self._rows(inner, inner_form), w=down.matrix, y=self._at(given), stride=padded(given.width)
        ))  # fmt: skip
        parts: list[tuple[Array, Form]] = [(given, "f32"), *([(shared, "f32")] if shared else [])]  # type: ignore[list-item]
        self._note([*parts, order], [out], lambda: self._program.combine(
            routes=routes, given=self._at(given), shared=self._at(shared) if shared else 0, out=self._at(out),
            cols=padded(out.width),
        ))  # fmt: skip
        return out

    # ----------------------------------------------------------------------------------------- the program

    def lower(self, logits: Array, hidden: Array, logits_at: int, stride: int) -> Place:
        """Write the program. `logits`, `hidden`: what forward returned → where the latter's rows come to lie.

        `logits_at`: where the first row of logits goes, `stride`: floats from row to row. Over a team all ranks write
        their columns into the same rows.
        """
        if self._team is not None:
            self._note([(logits, "f32")], [], self._program.meet_ranks)
        logits.forms["f32"] = logits_at
        self._logits, self._logits_stride = logits, stride
        for i, operation in enumerate(self._operations):
            for array in operation.writes:
                if array.first < 0:
                    array.first = i
            for array in (*operation.writes, *(a for a, _ in operation.reads)):
                array.last = i
        free: dict[int, list[int]] = {}  # size in bytes → addresses
        for i, operation in enumerate(self._operations):
            for array in operation.writes:
                if array.first == i and array is not logits:
                    self._place(array, free)
            operation.emit()
            for array in {a for a, _ in operation.reads} | set(operation.writes):
                if array.last == i and array not in (logits, hidden) and not array.is_shared:
                    for form, address in array.forms.items():
                        free.setdefault(self._bytes(array, form), []).append(address)
        return Place(self._at(hidden), padded(hidden.width))

    def _place(self, array: Array, free: dict[int, list[int]]) -> None:
        if array.shared_at is not None:
            array.forms = {"f32": self._team.area(self._rank) + array.shared_at}
            return
        at = None if array.common_at is None else self._team.area(0) + array.common_at
        for form in array.forms:
            size = self._bytes(array, form)
            if at is not None:
                array.forms[form], at = at, at + size
            else:
                array.forms[form] = free[size].pop() if free.get(size) else self._program.buffer(size)

    def _bytes(self, array: Array, form: Form) -> int:
        width = padded(array.width) * array.copies
        per_row = {"f32": 4 * width, "bf16": 2 * width, "s8": width + 8 * (width // _GROUP)}[form]
        # Vectors of 16 lanes may reach past the end of the last row.
        return self._max_tokens * per_row + 256

    # --------------------------------------------------------------------------------------------- helpers

    def _note(self, reads: list[tuple[Array, Form]], writes: list[Array], emit: Callable[[], None]) -> None:
        self._operations.append(Operation(tuple(reads), tuple(writes), emit))

    def _norm(
        self,
        deltas: list[Array],
        residual: Array,
        total: Array | None,
        norm: Normalisation,
        post: Normalisation | None,
        *,
        fresh: bool = False,
    ) -> Array:
        """`residual`: what deltas are added to (nothing, if `fresh`); `total`: where the sum stays, None: nowhere.

        Of the wanted rows, if these are two arrays. `post`: a norm of the deltas before they are added.
        """
        assert post is None or post.bias is None
        out, gather = Array(residual.width, of_logits=total is None), total is not None and total is not residual
        residual.forms.setdefault("f32", 0)
        if total is not None:
            total.forms.setdefault("f32", 0)
        if self._team is not None:
            if total is not None:
                total.common_at = self._shared.wanted_residual if gather else self._shared.residual
            out.common_at = self._shared.normed(self._norms_recorded)
            self._norms_recorded += 1

        def emit() -> None:
            addresses = [a for x in deltas for a in self._parts(x)]
            self._program.norm(
                deltas=addresses, residual=self._at(residual), total=self._at(total) if total else 0,
                weight=norm.weight.address, size=residual.width, eps=norm.eps,
                out=[self._rows(out, form) for form in out.forms], gather=gather, fresh=fresh,
                bias=norm.bias.address if norm.bias else 0, post=post.weight.address if post else 0,
                post_eps=post.eps if post else 0.0,
            )  # fmt: skip

        reads: list[tuple[Array, Form]] = [(x, "f32") for x in deltas] + ([] if fresh else [(residual, "f32")])
        self._note(reads, [out, total] if total else [out], emit)
        if self._team is not None:
            self._note([], [], self._program.meet_ranks)
        return out

    def _parts(self, x: Array) -> list[int]:
        if x.shared_at is None:
            return [self._at(x)]
        return [self._team.area(rank) + x.shared_at for rank in range(self._size)]

    def _convertible(self, x: Array, stride: int, activation: str) -> Array:
        """x, activated, in whatever form is asked for later. `stride`: floats between its rows so far."""
        out = Array(x.width)
        self._note([(x, "f32")], [out], lambda: self._program.convert(
            source=self._at(x), stride=stride, size=x.width, out=self._rows(out, self._only_form(out)),
            activation=activation,
        ))  # fmt: skip
        return out

    def _form(self, kind: Kind) -> Form:
        """What a matrix is multiplied by."""
        wanted = self._activations
        if kind in ("f16", "f32"):
            return "f32"  # nothing else would keep their precision
        if kind == "bf16":
            fast = wanted in ("auto", "int8") and self._isa.fast_bf16
            return "bf16" if fast or wanted == "bfloat16" else "f32"
        if wanted == "auto":
            return "s8" if self._isa.fast_s8 else "f32"
        forms: dict[str, Form] = {"int8": "s8", "bfloat16": "bf16", "float32": "f32"}
        return forms[wanted]

    def _only_form(self, x: Array) -> Form:
        (form,) = x.forms
        return form

    def _at(self, x: Array) -> int:
        return x.forms["f32"]

    def _stride(self, x: Array) -> int:
        return self._logits_stride if x is self._logits else padded(x.width)

    def _rows(self, x: Array, form: Form) -> Any:
        at, width = x.forms[form], padded(x.width)
        if form != "s8":
            return self._kernels.rows(form, width, at)
        rows = self._max_tokens * x.copies
        scale = at + rows * width
        return self._kernels.rows(form, width, at, scale, scale + 4 * rows * (width // _GROUP))

    def _pause(self, x: Array) -> None:
        self._program.pause()
        self.sums.append(Place(self._at(x), padded(x.width)))
