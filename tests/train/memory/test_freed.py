"""Memory that a process has freed, and what of it the machine gets back."""

import ctypes

import psutil
import torch
from ranks import run_ranks

from rayllm.train.memory.freed import LARGE_BYTES, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, give_back_freed

BLOCKS, SMALL_BYTES = 20, 100_000


def kept_after_freeing(give_back: bool) -> int:
    """Bytes that this process still has of large tensors which it freed, small ones between them being alive."""
    # All of it in heaps, and nothing given back; earlier tests in this process may have told glibc something else.
    mallopt = ctypes.CDLL(None).mallopt
    assert mallopt(M_MMAP_THRESHOLD, 32 << 20)
    assert mallopt(M_TRIM_THRESHOLD, 1 << 30)
    if give_back:
        assert give_back_freed()
    torch.ones(4 * LARGE_BYTES, dtype=torch.uint8)  # what torch needs for its first tensor is not counted
    before = psutil.Process().memory_info().rss
    tensors = [torch.ones(size, dtype=torch.uint8) for _ in range(BLOCKS) for size in (2 * LARGE_BYTES, SMALL_BYTES)]
    held = psutil.Process().memory_info().rss - before
    assert held > BLOCKS * LARGE_BYTES
    del tensors[::2]
    return psutil.Process().memory_info().rss - before


def test_large_tensors_that_are_freed_go_back_to_the_machine() -> None:
    (kept,) = run_ranks(kept_after_freeing, 1, True)
    assert kept < 2 * BLOCKS * SMALL_BYTES


def test_without_being_told_the_c_library_keeps_them() -> None:
    (kept,) = run_ranks(kept_after_freeing, 1, False)
    assert kept > BLOCKS * LARGE_BYTES
