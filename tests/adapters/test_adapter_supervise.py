"""Why a command ended, and with which knobs it goes on."""

import json

import pytest

from autotuner.adapters.out_of_memory import is_out_of_memory, out_of_memory
from autotuner.adapters.supervise import Remains, cause_of, read_remains, safer
from autotuner.hook import attach, knob
from autotuner.knobs import declare

MPS = "RuntimeError: MPS backend out of memory (MPS allocated: 17.2 GB, other allocations: 0.9 GB, max allowed: 18.1 GB)."
MLX = "RuntimeError: [metal::malloc] Resource limit (499000) exceeded."
MLX_SIZE = "RuntimeError: [malloc_or_wait] Unable to allocate 8589934592 bytes."
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
CPU = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
WATCHDOG = (
    "libc++abi: terminating due to uncaught exception: [METAL] Command buffer execution failed: "
    "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
)
MICRO = declare("micro_batch", 16, [2, 4, 8, 16], "boundary")
PACE = declare("pace", 1.0, [0.5, 1.0])


@pytest.mark.parametrize(
    ("text", "who"),
    [(MPS, "MPS"), (MLX, "MLX"), (MLX_SIZE, "MLX"), (CUDA, "CUDA"), (CPU, "PyTorch on the CPU"), ("MemoryError", "Python")],
)
def test_each_frameworks_words_for_out_of_memory_are_known(text, who):
    assert out_of_memory(f"Traceback (most recent call last):\n{text}\n") == who


@pytest.mark.parametrize("text", ["ValueError: memory format", "I ran out of ideas", WATCHDOG, ""])
def test_other_texts_are_not_taken_for_it(text):
    assert out_of_memory(text) == ""


def test_an_exception_is_known_by_its_text_or_its_type():
    assert is_out_of_memory(RuntimeError(MPS))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("code", "said", "kind", "sentence"),
    [
        (0, MPS, "finished", "it finished"),
        (1, MPS, "memory", "MPS ran out of memory"),
        (134, WATCHDOG, "watchdog", "macOS ended its GPU work"),
        (-9, "", "killed", "SIGKILL"),
        (137, "", "killed", "SIGKILL"),
        (-11, "", "crash", "SIGSEGV"),
        (1, "subprocess.CalledProcessError: Command '[...]' died with <Signals.SIGKILL: 9>.", "killed", "SIGKILL"),
        (1, "  rank      : 0\n  exitcode  : -9 (pid: 7)\n", "killed", "SIGKILL"),
        (-2, "KeyboardInterrupt", "stopped", "SIGINT"),
        (143, "", "stopped", "SIGTERM"),
        (1, "Traceback\nValueError: bad shape", "exception", "it ended with code 1: ValueError: bad shape"),
        (3, "", "exception", "it ended with code 3"),
    ],
)
def test_an_end_is_attributed(code, said, kind, sentence):
    cause = cause_of(code, said)
    assert cause.kind == kind
    assert sentence in cause.sentence


def test_after_out_of_memory_the_micro_batch_is_halved_and_the_rest_stays():
    remains = Remains((MICRO, PACE), (3, 0))
    assert safer(cause_of(1, MPS), remains) == {"micro_batch": 8, "pace": 0.5}
    assert safer(cause_of(-11, ""), remains) == {"micro_batch": 16, "pace": 0.5}


@pytest.mark.parametrize(
    "remains",
    [Remains(), Remains((MICRO,), (0,)), Remains((declare("micro_batch", 16, [8, 16], "none"),), (1,))],
    ids=["no run", "the lowest already", "not tunable"],
)
def test_without_a_safer_value_nothing_is_tried_again(remains):
    assert safer(cause_of(-9, ""), remains) is None


def test_the_remains_of_a_run_are_its_last_acknowledged_knobs(tmp_path):
    run = attach("cats", state_dir=tmp_path, knobs={"micro_batch": knob(16, [2, 4, 8, 16])})
    assert read_remains(run.directory).values == {"micro_batch": 16}
    run.set("micro_batch", 4)
    assert read_remains(run.directory).values == {"micro_batch": 4}
    run.close()


def test_damaged_or_absent_remains_are_none(tmp_path):
    assert read_remains(None) == read_remains(tmp_path / "gone") == Remains()
    (tmp_path / "run.json").write_text(json.dumps({"version": 99}))
    assert read_remains(tmp_path) == Remains()
