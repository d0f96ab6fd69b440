"""What is known of a strategy without importing its module, and so neither torch nor Triton: for a quick list.

A strategy's name begins with what it is written in, which tells where it runs and what it needs.  Where one computes
fewer operators than its folder, or is for some GPUs alone, it stands here too; a test compares both with its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from .arrays import architecture, has_gpu
from .strategy import FAMILIES, foreign, load

_MOST_POOLS = FAMILIES["pool"][:-1]  # all but unpooling
_SOFTMAX = ("softmax", "log_softmax")
NARROWER = {  # than the folder: entry -> operators
    "pool.torch": tuple(name for name in FAMILIES["pool"] if name != "sum_pool2d"),
    "pool.torch_compile": tuple(name for name in FAMILIES["pool"] if name != "sum_pool2d"),
    **dict.fromkeys(("pool.cupy_pool", "pool.cupy_pool_nhwc", "pool.cupy_pool_separable"), _MOST_POOLS),
    **dict.fromkeys(("pool.triton_pool", "pool.triton_pool_nhwc"), _MOST_POOLS),
    **dict.fromkeys(("pool.cupy_unpool", "pool.triton_unpool"), ("max_unpool2d",)),
    **{f"rowwise.cupy_softmax_{kind}": _SOFTMAX for kind in ("warp", "block", "cluster", "online")},
    **{f"rowwise.triton_softmax_{kind}": _SOFTMAX for kind in ("rows", "row", "online")},
    **dict.fromkeys(("rowwise.cupy_cross_entropy", "rowwise.triton_cross_entropy"), ("cross_entropy",)),
}
ARCHS: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("conv.triton_implicit_gemm_tma", "rowwise.cupy_softmax_cluster"), ("sm_90",)
)


@dataclass(frozen=True)
class _Backend:
    """What strategies are written in: where these run, and the packages that their modules import."""

    devices: tuple[str, ...]
    interpreted: bool = False
    packages: tuple[str, ...] = ()


_BACKENDS = {
    "torch_compile": _Backend(("cuda",), packages=("torch",)),
    "torch": _Backend(("cpu", "cuda"), packages=("torch",)),
    "numpy": _Backend(("cpu",)),
    "cupy": _Backend(("cuda",), interpreted=True),
    "triton": _Backend(("cuda",), interpreted=True, packages=("triton", "torch")),
}


@dataclass(frozen=True)
class Outline:
    """The attributes of a `Strategy` that say what it computes and where, and what it needs for that."""

    entry: str
    name: str
    operations: tuple[str, ...]
    devices: tuple[str, ...]
    interpreted: bool
    archs: tuple[str, ...]
    packages: tuple[str, ...]

    def missing(self) -> str | None:
        """The first package that its module imports and that is not installed."""
        return next((package for package in self.packages if find_spec(package) is None), None)

    def lacks(self, device: str) -> list[str]:
        """What `Strategy.lacks` says of it."""
        if self.name.startswith("cupy_"):
            if device == "cuda":  # CuPy knows where CUDA's libraries are, and is there or quickly not
                return load(self.entry).lacks(device)
            from .cuda import CudaStrategy

            return CudaStrategy().lacks(device)  # the emulator has the libraries
        if self.name.startswith("triton_") and device == "cpu" and has_gpu():
            from .triton_host import COMPILED

            return [COMPILED]
        arch = architecture() if device == "cuda" else None
        return foreign(self.archs, arch) if arch else []


def outline(entry: str) -> Outline:
    """Of a registry entry such as "conv.cupy_direct".

    >>> outline("rowwise.cupy_softmax_cluster").operations, outline("gemm.triton_gemm").packages
    (('softmax', 'log_softmax'), ('triton', 'torch'))
    """
    family, name = entry.split(".")
    backend = _BACKENDS[name if name in _BACKENDS else name.partition("_")[0]]
    return Outline(
        entry,
        name,
        NARROWER.get(entry, FAMILIES[family]),
        backend.devices,
        backend.interpreted,
        ARCHS.get(entry, ()),
        backend.packages,
    )
