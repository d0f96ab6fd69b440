"""Arrays larger than the memory that they take."""

from __future__ import annotations

import math
import mmap

import numpy as np

NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE, which has no name in Python 3.11


def sparse(shape: tuple[int, ...]) -> np.ndarray:
    """float16 zeros that take memory only where they are written; of huge pages, so that reading them all is quick."""
    room = mmap.mmap(-1, 2 * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    room.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(room, np.float16).reshape(shape)
