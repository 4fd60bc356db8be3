"""What each framework holds, over fakes of MPS and CUDA (no Mac and no GPU ran this) and over the real process and MLX."""

import sys
from types import SimpleNamespace

import pytest

from autotuner.adapters.device_memory import (
    Memory,
    cuda_memory,
    mps_memory,
    of_torch,
    parse_status,
    process_memory,
    torch_cache_clearing,
)

GIB = 2**30


class FakeMPS:
    """As ``torch.mps``: what tensors use, and what the driver has given, which never falls by itself."""

    def __init__(self, tensors, driver):
        self.current_allocated_memory = lambda: tensors
        self.driver_allocated_memory = lambda: driver
        self.empty_cache = lambda: "emptied"


def test_on_mps_what_the_driver_gave_beyond_the_tensors_is_cache():
    assert mps_memory(FakeMPS(6 * GIB, 72 * GIB)) == Memory(6 * GIB, 66 * GIB, 72 * GIB)
    assert mps_memory(FakeMPS(2, 1)).cache_bytes == 0


def test_on_cuda_the_peak_begins_anew_with_each_reading():
    resets = []
    cuda = SimpleNamespace(
        memory_allocated=lambda: 3, memory_reserved=lambda: 5, max_memory_allocated=lambda: 4,
        reset_peak_memory_stats=lambda: resets.append(1),
    )  # fmt: skip
    assert cuda_memory(cuda) == Memory(3, 2, 4)
    assert resets == [1]


def test_each_device_has_its_reading_and_its_way_to_clear_the_cache():
    torch = SimpleNamespace(mps=FakeMPS(1, 2), cuda=SimpleNamespace(empty_cache=None))
    assert of_torch(torch, "mps")() == Memory(1, 1, 2)
    assert of_torch(torch, "cpu") is process_memory
    assert torch_cache_clearing(torch, "mps")() == "emptied"
    assert torch_cache_clearing(torch, "cpu") is None


def test_the_status_of_a_process_is_read_in_bytes():
    assert parse_status("VmPeak:\t 9 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n") == Memory(200 * 1024, 0, 300 * 1024)
    assert parse_status("Name:\tpython\n") == Memory()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process begin its peak anew")
def test_the_peak_of_this_process_is_that_since_the_last_reading():
    before = process_memory().active_bytes
    block = bytearray(64 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert process_memory().peak_bytes >= before + 48 * 2**20
    assert process_memory().peak_bytes < before + 48 * 2**20
