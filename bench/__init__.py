"""The bench: problem -> inputs -> strategy -> validation -> timing -> record -> table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .capturing import capture as capture


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why in one sentence."""


def __getattr__(name: str) -> Any:
    if name == "capture":  # needs torch, which `import gpucnn.bench` does not wait for
        from .capturing import capture

        return capture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
