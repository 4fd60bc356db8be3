"""Weights on |D - y|^2, each against the formula that its paper gives for the network's own output."""

from __future__ import annotations

import numpy as np
import pytest

from autotuner.diffusion import loss
from autotuner.diffusion.blas import mx
from autotuner.diffusion.precondition import PROCESSES

SIGMA = np.array([0.02, 0.2, 0.4472136, 1.0, 5.0, 30.0])
SNR = 1 / SIGMA**2


def weights(name, process="edm", data=0.7):
    return np.array(loss.WEIGHTINGS[name](mx.array(SIGMA.astype(np.float32)), data, PROCESSES[process]))


def in_output_space(name, process):
    """The weight on the squared error of F: |D - y|^2 = c_out^2 |F - F*|^2."""
    c_out = np.array(PROCESSES[process].c_out(mx.array(SIGMA.astype(np.float32)), 0.7))
    return weights(name, process) * c_out**2


def test_min_snr_is_the_published_weight_on_noise_v_and_image():
    assert in_output_space("min_snr", "vp_epsilon") == pytest.approx(np.minimum(SNR, 5) / SNR, rel=1e-4)
    assert in_output_space("min_snr", "vp_v") == pytest.approx(np.minimum(SNR, 5) / (SNR + 1), rel=1e-4)
    assert weights("min_snr") == pytest.approx(np.minimum(SNR, 5), rel=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
def test_uniform_is_the_plain_squared_error_of_what_the_network_predicts(process):
    assert in_output_space("uniform", process) == pytest.approx(np.ones(len(SIGMA)), rel=1e-4)


def test_uniform_on_the_noise_is_the_signal_to_noise_ratio_on_the_image():
    assert weights("uniform", "vp_epsilon") == pytest.approx(SNR, rel=1e-4)


def test_the_edm_weight_is_the_published_one_whatever_the_process():
    expected = (SIGMA**2 + 0.49) / (SIGMA * 0.7) ** 2
    for process in PROCESSES:
        assert weights("edm", process) == pytest.approx(expected, rel=1e-4)


def test_the_weighting_changes_what_is_learned_but_not_how_it_is_measured(make_trainer):
    plain, other = make_trainer(), make_trainer(weighting="min_snr")
    assert np.array_equal(plain.evaluator.held_out_losses(), other.evaluator.held_out_losses())
    assert next(plain.steps()).loss != next(other.steps()).loss
    assert not mx.array_equal(plain.stages.teacher.state.weights, other.stages.teacher.state.weights)


def test_latents_pass_as_they_are_and_pixels_are_scaled():
    latents = mx.array([0.5, -3.0])
    assert mx.array_equal(loss.to_model(latents), latents)
    assert np.array(loss.to_model(mx.array([0, 255], mx.uint8))) == pytest.approx([-1, 1])
