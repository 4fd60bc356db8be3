from __future__ import annotations

import ctypes
import os
import types

import numpy as np
import pytest

from autotuner.diffusion import blas


class FakeLoader:
    def __init__(self, broken=()):
        self.broken = broken
        self.calls = []

    def __call__(self, path, mode):
        self.calls.append((path, mode))
        if path in self.broken:
            raise OSError("wrong architecture")


def test_the_first_library_that_exists_is_loaded_with_global_symbols(tmp_path):
    here = tmp_path / "libopenblas.so.0"
    here.touch()
    loader = FakeLoader()
    assert blas.load_openblas([str(tmp_path / "absent"), str(here)], loader) == str(here)
    assert loader.calls == [(str(here), ctypes.RTLD_GLOBAL)]


def test_a_library_that_cannot_be_loaded_gives_way_to_the_next(tmp_path):
    first, second = tmp_path / "a.so", tmp_path / "b.so"
    first.touch()
    second.touch()
    assert blas.load_openblas([str(first), str(second)], FakeLoader({str(first)})) == str(second)


def test_no_library_is_not_an_error_and_the_sentence_says_how_to_get_one():
    assert blas.load_openblas(["/nowhere/libopenblas.so.0"], FakeLoader()) is None
    status = blas.BlasStatus(path=None, needed=True, matmul_error=0.0, compiled=False)
    assert not status.healthy
    assert "apt-get install libopenblas0-pthread" in status.sentence


def test_the_users_number_of_threads_is_respected(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    blas.load_openblas([], FakeLoader())
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    blas.load_openblas([], FakeLoader())
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


def test_a_wrong_product_is_found_by_the_self_check():
    class Wrong(np.ndarray):
        def __matmul__(self, other):
            return np.asarray(self) @ np.asarray(other) * 1.01

    module = types.SimpleNamespace(array=lambda values: np.asarray(values).view(Wrong))
    error = blas.matmul_error(module)
    assert error == pytest.approx(0.01, rel=1e-3)
    broken = blas.BlasStatus(path="/lib/x", needed=True, matmul_error=error, compiled=False)
    assert not broken.healthy
    assert "OPENBLAS_CORETYPE" in broken.sentence


def test_this_process_multiplies_right():
    assert blas.status().matmul_error < blas.TOLERANCE


def test_macos_needs_no_openblas():
    assert blas.BlasStatus(path=None, needed=False, matmul_error=0.0, compiled=True).healthy
