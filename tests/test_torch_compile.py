"""torch.compile as a strategy: a GPU's, since on the host nobody waits for it; that it is right is seen here, too."""

import pytest

from gpucnn.bench.machine import Machine
from gpucnn.bench.oracle import oracles
from gpucnn.bench.validate import validate
from gpucnn.kernels import parse
from gpucnn.kernels.arrays import has_gpu
from gpucnn.kernels.emulator import missing
from gpucnn.kernels.strategy import load

pytest.importorskip("torch")
LINES = [
    ("pool", "--op=max_pool2d --return-indices mb1ic4ih9kh3sh2ph1"),
    ("rowwise", "--op=softmax --out-dtype=float16 64x1000"),
    ("rowwise", "--op=cross_entropy 64x1000"),
    ("gemm", "--op=linear --bias --activation=relu mb4ic33oc20"),
]


@pytest.mark.skipif(has_gpu(), reason="with a GPU it is tested there")
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize(("family", "line"), LINES)
def test_what_it_compiles_is_right(family, line, monkeypatch):
    strategy, problem = load(f"{family}.torch_compile"), parse(line)
    assert "not on cpu" in " ".join(strategy.unsupported(problem, "cpu"))
    monkeypatch.setattr(type(strategy), "devices", ("cpu",))
    monkeypatch.setattr(type(strategy), "mode", None)  # on the host it would time products for minutes
    found = validate(strategy, problem, Machine("cpu"), oracles(problem, seed=0))
    assert found.verdict == "PASSED", found.message
