"""Calls on a GPU: on the caller's stream, in the caller's graph, on the arrays' own device; torch's arrays and CuPy's."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from gpucnn.kernels import conv2d, max_pool2d, softmax
from gpucnn.kernels.arrays import has_gpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu(), reason="there is no GPU")]
needs_cupy = pytest.mark.skipif(find_spec("cupy") is None, reason="there is no CuPy")

# The vendor; a kernel of CuPy's; with a workspace and a library's product; Triton's; by a chosen one.
STRATEGIES = ["torch", "cupy_direct", "cupy_im2col_gemm", "triton_implicit_gemm", None]
SLEEP_CYCLES = 200_000_000  # a tenth of a second and more


def layer(device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (2, 16, 14, 14), generator=made).float()
    w = torch.randint(-2, 3, (32, 16, 3, 3), generator=made).float()
    return x.to(device), w.to(device)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_runs_on_the_callers_stream_and_waits_for_nothing(strategy):
    x, w = layer()
    expected = F.conv2d(x, w, padding=1)
    conv2d(x, w, padding=1, strategy=strategy)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(SLEEP_CYCLES)
        y = conv2d(x, w, padding=1, strategy=strategy)
        ended = stream.record_event()
    assert torch.cuda.current_stream().query()  # nothing was launched there
    assert not ended.query()
    ended.synchronize()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_is_captured_in_a_graph_with_its_workspace(strategy):
    x, w = layer()
    conv2d(x, w, padding=1, strategy=strategy)  # compiled, and tried out
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = conv2d(x, w, padding=1, strategy=strategy)
    others = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(16)]  # in what a pool has free
    for sign in (1.0, -1.0):
        x.copy_(sign * layer()[0])
        graph.replay()
        assert torch.equal(y, F.conv2d(x, w, padding=1))
    assert all(other.isnan().all() for other in others)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_streams_at_once(strategy):
    """A workspace of one stream is never another's."""
    x, w = layer()
    expected = F.conv2d(x, w, padding=1)
    streams = [torch.cuda.Stream() for _ in range(8)]
    torch.cuda.synchronize()
    results = []
    for turn in range(64):
        with torch.cuda.stream(streams[turn % 8]):
            results.append(conv2d(x, w, padding=1, strategy=strategy))
    torch.cuda.synchronize()
    assert all(torch.equal(y, expected) for y in results)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_runs_where_its_arrays_are(strategy):
    expected = F.conv2d(*layer(), padding=1).cpu()
    for index in (0, 1, 0, 1):
        x, w = layer(f"cuda:{index}")
        y = conv2d(x, w, padding=1, strategy=strategy)
        assert y.device == torch.device("cuda", index)
        assert torch.cuda.current_device() == 0
        assert torch.equal(y.cpu(), expected)


@needs_cupy
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cupys_arrays_on_cupys_stream(strategy):
    import cupy

    x, w = (cupy.asarray(array.cpu().numpy()) for array in layer())
    expected = F.conv2d(*layer(), padding=1).cpu().numpy()
    conv2d(x, w, padding=1, strategy=strategy)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y = conv2d(x, w, padding=1, strategy=strategy)
        stream.synchronize()
    assert isinstance(y, cupy.ndarray)
    assert (y.get() == expected).all()


@needs_cupy
def test_a_pipeline_of_cupys_arrays():
    import cupy

    x, w = (cupy.asarray(array.cpu().numpy()) for array in layer())
    y = softmax(max_pool2d(conv2d(x, w, padding=1, activation="relu"), 2), 1)
    right = F.max_pool2d(F.conv2d(*layer(), padding=1).relu(), 2).softmax(1)
    assert cupy.allclose(y, cupy.asarray(right.cpu().numpy()), atol=1e-6)
