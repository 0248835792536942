"""Memory for tables that are looked up all over.

Where such a table is larger than what the processor has at hand, a look-up waits for two things:
the place of its page of 4 KB, which the processor has to look up itself, and what is there. On a
virtual machine the former takes longer. Linux has pages of 2 MB, of which the processor keeps all
that such a table needs; most systems give them to those who ask (`madvise(2)`, MADV_HUGEPAGE).
"""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress


def zeros(size: int) -> memoryview:
    """So many bytes, all of them 0. They take no memory before they are used.

    In pages of 2 MB where the system has them, in usual ones elsewhere.
    """
    if sys.platform != "linux":
        return memoryview(bytearray(size))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel that was built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
