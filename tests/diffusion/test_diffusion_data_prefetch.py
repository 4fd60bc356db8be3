from __future__ import annotations

import random
import subprocess
import sys
import threading
from typing import NamedTuple

import numpy as np
import pytest

from autotuner.diffusion.data.prefetch import Inline, Prefetch

SEED = 3
PATIENCE_SECONDS = 20


class Request(NamedTuple):
    first_image: int
    count: int
    resolution: int


def following(request):
    return Request(request.first_image + request.count, request.count, request.resolution)


def batches_of(dataset):
    return lambda request: dataset.batch(request.first_image, request.count, SEED, request.resolution)


def take(batches, first_image, count, resolution):
    return batches.take(Request(first_image, count, resolution))


def same(batch, expected):
    return all(np.array_equal(one, other) for one, other in zip(batch, expected, strict=True))


class Recorder:
    """Prepares batches of a dataset and remembers which, where, and how far ahead."""

    def __init__(self, dataset):
        self.prepare = batches_of(dataset)
        self.requests = []
        self.threads = set()
        self.arrived = threading.Semaphore(0)

    def __call__(self, request):
        self.requests.append(request)
        self.threads.add(threading.current_thread())
        batch = self.prepare(request)
        self.arrived.release()
        return batch


def test_batches_come_in_order_and_equal_those_prepared_on_the_spot(stripes):
    inline = Inline(batches_of(stripes))
    with Prefetch(batches_of(stripes), following) as prefetch:
        for first in range(0, 800, 16):
            assert same(take(prefetch, first, 16, 4), take(inline, first, 16, 4))
        assert prefetch.dropped == 0


def test_a_run_resumed_at_a_position_sees_what_it_would_have_seen(stripes):
    with Prefetch(batches_of(stripes), following) as prefetch:
        seen = [take(prefetch, first, 16, 8) for first in range(0, 320, 16)]
    with Prefetch(batches_of(stripes), following) as resumed:
        assert all(same(take(resumed, first, 16, 8), seen[first // 16]) for first in range(160, 320, 16))


def test_the_next_batches_are_prepared_before_anybody_asks_and_no_more_than_the_depth(stripes):
    recorder = Recorder(stripes)
    with Prefetch(recorder, following, depth=3) as prefetch:
        take(prefetch, 0, 16, 8)
        for _ in range(4):
            assert recorder.arrived.acquire(timeout=PATIENCE_SECONDS)
        assert recorder.requests == [Request(first, 16, 8) for first in (0, 16, 32, 48)]
        take(prefetch, 16, 16, 8)
        assert recorder.arrived.acquire(timeout=PATIENCE_SECONDS)
    assert recorder.requests[4:] == [Request(64, 16, 8)]


def test_a_knob_that_moves_between_two_steps_takes_effect_at_once_and_loses_no_image(stripes):
    chance, first = random.Random(1), 0
    with Prefetch(batches_of(stripes), following) as prefetch:
        for _ in range(200):
            count, resolution = chance.choice((8, 16)), chance.choice((4, 8))
            batch = take(prefetch, first, count, resolution)
            assert batch.images.shape == (count, resolution, resolution, 1)
            assert np.array_equal(batch.indices, stripes.batch_indices(first, count, SEED))
            first += count
        assert prefetch.dropped > 0


def test_a_plan_of_resolutions_that_is_known_beforehand_drops_nothing(stripes):
    def follow(request):
        first = request.first_image + request.count
        return Request(first, request.count, (4, 6, 8)[first // 16 % 3])

    with Prefetch(batches_of(stripes), follow) as prefetch:
        request = Request(0, 16, 4)
        for _ in range(60):
            assert prefetch.take(request).images.shape[1] == request.resolution
            request = follow(request)
        assert prefetch.dropped == 0


def test_an_error_arrives_in_the_training_thread_at_the_batch_that_it_belongs_to(stripes):
    def prepare(request):
        if request.first_image == 32:
            raise OSError("the disk is gone")
        return batches_of(stripes)(request)

    with Prefetch(prepare, following) as prefetch:
        take(prefetch, 0, 16, 8)
        take(prefetch, 16, 16, 8)
        with pytest.raises(OSError, match="the disk is gone"):
            take(prefetch, 32, 16, 8)
        with pytest.raises(OSError, match="the disk is gone"):
            take(prefetch, 32, 16, 8)
        assert len(take(prefetch, 48, 16, 8).images) == 16


def test_everything_is_prepared_on_one_other_thread_that_ends_when_told(stripes):
    recorder = Recorder(stripes)
    prefetch = Prefetch(recorder, following)
    for first in range(0, 160, 16):
        take(prefetch, first, 16, 8)
    prefetch.close()
    assert len(recorder.threads) == 1
    assert threading.current_thread() not in recorder.threads
    assert not any(thread.is_alive() for thread in recorder.threads)


def test_after_closing_it_may_begin_anew(stripes):
    prefetch = Prefetch(batches_of(stripes), following)
    before = take(prefetch, 16, 16, 8)
    prefetch.close()
    prefetch.close()
    assert same(take(prefetch, 16, 16, 8), before)
    prefetch.close()


def test_the_thread_ends_even_while_it_prepares(stripes):
    working, go_on = threading.Event(), threading.Event()

    def prepare(request):
        if request.first_image:
            working.set()
            assert go_on.wait(PATIENCE_SECONDS)
        return batches_of(stripes)(request)

    prefetch = Prefetch(prepare, following)
    take(prefetch, 0, 16, 8)
    assert working.wait(PATIENCE_SECONDS)
    closing = threading.Thread(target=prefetch.close)
    closing.start()
    go_on.set()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()


@pytest.mark.parametrize("make", [Inline, lambda prepare, clock: Prefetch(prepare, following, depth=0, clock=clock)])
def test_the_time_that_training_waits_for_data_is_counted(stripes, clock, make):
    def prepare(request):
        clock.now += 1.5
        return batches_of(stripes)(request)

    batches = make(prepare, clock=clock)
    take(batches, 0, 16, 8)
    take(batches, 16, 16, 8)
    batches.close()
    assert batches.wait_seconds == pytest.approx(3.0)


def test_preparing_batches_knows_nothing_of_the_device():
    code = "import sys, autotuner.diffusion.data.prefetch; sys.exit(any(name.split('.')[0] == 'mlx' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
