"""What a generated Triton module is as text: it stands alone, is safe to load, and names what cannot be done."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from recurc import targets, zoo
from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.errors import UnsupportedError
from recurc.facts import Analysis
from recurc.ir import Equation, Input, Param, Read, Recurrence
from recurc.ops import apply, number
from recurc.passes import make_plan
from recurc.plan import Buffer, Map, Plan, Role
from recurc.source import Span
from recurc.types import DimDecl, DType
from tests.systems import SIZES, plans


def spec(**sizes: int) -> Specialization:
    return Specialization(tuple(sorted(sizes.items())), DType.F32)


@pytest.mark.parametrize(("system", "schedule"), sorted(plans()))
def test_a_module_needs_torch_and_triton_only(system: str, schedule: str) -> None:
    module = TritonBackend().emit(plans()[system, schedule], spec(**SIZES[system]))
    tree = ast.parse(module.text)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"torch", "triton", "triton.language"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
    assert any(isinstance(node, ast.FunctionDef) and node.name == "launch" for node in tree.body)


def test_a_hostile_file_name_stays_inside_its_comment() -> None:
    plan = plans()["ema", "sequential"]
    span = Span('x\n"""\nimport os; os.abort()\n"""', 1, 1, 1, 2)
    loop = plan.stages[0]
    body = tuple(replace(e, span=span) for e in loop.body)
    recurrence = replace(plan.recurrence, span=span)
    module = TritonBackend().emit(replace(plan, recurrence=recurrence, stages=(replace(loop, body=body),)), spec(D=5))
    assert "os.abort" in module.text  # as part of a comment
    names = {n.id for n in ast.walk(ast.parse(module.text)) if isinstance(n, ast.Name)}
    assert "os" not in names


def test_names_that_mean_something_in_python_or_triton_are_changed() -> None:
    reads = [Read(n, 0, ("D",), DType.REAL) for n in ("tl", "launch", "seq", "lambda_", "rc_exp")]
    total = reads[0]
    for read in reads[1:]:
        total = apply("add", total, read)
    recurrence = Recurrence(
        "torch", (DimDecl("D"),), tuple(Input(r.name, r.dims) for r in reads), (), (), (Equation("y", total),), ("y",)
    )
    buffers = (
        *(Buffer(r.name, r.dims, DType.REAL, Role.INPUT) for r in reads),
        Buffer("y", ("D",), DType.REAL, Role.OUTPUT),
    )
    plan = Plan(recurrence, Analysis(()), buffers, (Map((Equation("y", total),), ("y",)),), ())
    module = TritonBackend().emit(plan, spec(D=5))
    assigned = {
        target.id
        for node in ast.walk(ast.parse(module.text))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert not assigned & {"tl", "triton", "torch", "launch", "rc_exp"}


def test_what_has_no_kernel_is_named() -> None:
    z = Read("z", 0, ("D",), DType.COMPLEX)
    recurrence = Recurrence("C", (DimDecl("D"),), (Input("z", ("D",), DType.COMPLEX),), (), (), (), ("y",))
    body = (Equation("y", apply("real", z)),)
    buffers = (Buffer("z", ("D",), DType.COMPLEX, Role.INPUT), Buffer("y", ("D",), DType.REAL, Role.OUTPUT))
    plan = Plan(recurrence, Analysis(()), buffers, (Map(body, ("y",)),), ())
    problems = TritonBackend().limitations(plan, spec(D=4))
    assert any("complex" in p for p in problems)
    with pytest.raises(UnsupportedError, match="complex"):
        TritonBackend().emit(plan, spec(D=4))


def test_a_tile_no_gpu_could_hold_is_refused_with_its_sizes() -> None:
    from recurc.build import matmul

    product = matmul(Read("W", 0, ("H", "D"), DType.REAL), apply("mul", Read("x", 0, ("D",), DType.REAL), number(2.0)))
    body = (Equation("y", apply("tanh", matmul(Read("V", 0, ("K", "H"), DType.REAL), apply("tanh", product)))),)
    params = (Param("W", ("H", "D")), Param("V", ("K", "H")))
    dims = tuple(DimDecl(d) for d in ("D", "H", "K"))
    recurrence = Recurrence("Wide", dims, (Input("x", ("D",)),), params, (), body, ("y",))
    buffers = (
        Buffer("x", ("D",), DType.REAL, Role.INPUT),
        *(Buffer(p.name, p.dims, DType.REAL, Role.PARAM) for p in params),
        Buffer("y", ("K",), DType.REAL, Role.OUTPUT),
    )
    plan = Plan(recurrence, Analysis(()), buffers, (Map(body, ("y",)),), ())
    assert not TritonBackend().limitations(plan, spec(D=8, H=16, K=8))
    problems = TritonBackend().limitations(plan, spec(D=512, H=512, K=64))
    assert any("D = 512" in p for p in problems)


def test_fused_scans_are_one_kernel_in_one_segment_as_long_as_the_registers_have_room() -> None:
    rec = zoo.load("linear_attention").ir
    for width, fused in ((32, True), (2048, False)):
        sizes = {"K": width, "V": 32}
        plan = make_plan(rec, sizes, 2, 4096, DType.F32, targets.named("sm_90"), "scan")
        module = TritonBackend().emit(plan, spec(**sizes))
        names = [k.name for k in module.kernels]
        walks = [n for n in names if "_reduce" not in n and "_starts" not in n]
        assert walks == (["LinearAttention_fused_0"] if fused else ["LinearAttention_scan_0", "LinearAttention_scan_1"])
        assert ("torch.empty((batch, steps" in module.text) is not fused, "what passes between the scans is stored"
