"""What may go wrong with a kernel on the host."""

from __future__ import annotations

Index = tuple[int, int, int]


class CompileError(RuntimeError):
    """A kernel does not compile; the message is the compiler's, which names file and line."""


class NotSupportedError(CompileError):
    """A kernel needs what the emulator does not have."""

    def __init__(self, what: str, file: str = "", line: int = 0) -> None:
        super().__init__(f"not supported in the emulator: {what}" + (f" ({file}:{line})" if file else ""))


class KernelError(RuntimeError):
    """A kernel did what is wrong or undefined on a device.

    kernel         its name
    what           what it did
    place          "file:line" of the source, or "" where that is not known
    block, thread  the indices of the thread that did it; None where it was no single one
    """

    def __init__(
        self, kernel: str, what: str, place: str = "", block: Index | None = None, thread: Index | None = None
    ) -> None:
        who = f"in {kernel}" + (f", block {block}, thread {thread}" if block else "")
        super().__init__(f"{place}: {what}\n  {who}" if place else f"{what}\n  {who}")
        self.kernel, self.what, self.block, self.thread, self.place = kernel, what, block, thread, place
