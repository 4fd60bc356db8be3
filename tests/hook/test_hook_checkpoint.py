"""Requests to save and to restore, on the run's side: handed over once, answered once, and nothing of it hurts a training."""

import os
import struct
import warnings
from time import monotonic
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotuner.hook import attach, knob
from autotuner.hook.checkpoint import (
    LONGEST_TEXT_BYTES,
    Answer,
    Request,
    ability_on,
    answer_on,
    ask,
    request_on,
    withdraw,
)
from autotuner.hook.page import PAGE_BYTES, PageReader, PageWriter, create_page


@pytest.fixture
def page(run):
    writer = PageWriter(run.directory / "knobs.page")
    yield writer
    writer.close()


def save_at(path="/out/a", step=None):
    return lambda asked: asked.done(path, step)


def test_a_run_can_neither_until_its_script_says_so(run, page):
    assert ability_on(page.read()) == ()
    run.on_save(save_at())
    assert ability_on(page.read()) == ("save",)
    run.on_restore(save_at())
    assert ability_on(page.read()) == ("save", "restore")


def test_a_request_is_handed_over_once_at_the_next_report_and_answered(run, page):
    seen = []

    def save(asked):
        seen.append((asked.kind, asked.path))
        asked.done("/out/checkpoint-7", 7)

    run.on_save(save)
    run.report(6, 0.5)
    ask(page, Request(4, 1e9, "save"))
    for step in (7, 8, 9):
        run.report(step, 0.5)
    assert seen == [("save", "")]
    assert answer_on(page.read()) == Answer(4, 1e9, 7, True, "/out/checkpoint-7")


def test_restore_gets_the_path_and_the_last_reported_step_is_the_default(run, page):
    seen = []
    run.on_restore(lambda asked: (seen.append(asked.path), asked.done(asked.path)))
    ask(page, Request(1, 1e9, "restore", "/out/ä"))
    run.report(3, 0.5)
    assert seen == ["/out/ä"]
    assert answer_on(page.read()) == Answer(1, 1e9, 3, True, "/out/ä")


def test_the_script_may_answer_later_and_only_its_first_answer_counts(run, page):
    held = []
    run.on_save(held.append)
    ask(page, Request(1, 1e9, "save"))
    run.report(1, 0.5)
    assert answer_on(page.read()) is None
    (asked,) = held
    assert not asked.answered
    asked.failed("no room", 4)
    asked.done("/out/late")
    assert asked.answered
    assert answer_on(page.read()) == Answer(1, 1e9, 4, False, "no room")


def test_a_callback_that_raises_answers_failed_and_training_goes_on(run, page):
    run.on_save(lambda asked: 1 / 0)
    ask(page, Request(1, 1e9, "save"))
    with pytest.warns(UserWarning, match="division by zero"):
        run.report(1, 0.5)
    assert answer_on(page.read()).text == "ZeroDivisionError: division by zero"
    assert run.directory is not None


def test_a_withdrawn_request_is_never_handed_over(run, page):
    run.on_save(lambda asked: pytest.fail("it was withdrawn"))
    request = Request(1, 1e9, "save")
    ask(page, request)
    withdraw(page, request)
    run.report(1, 0.5)
    assert answer_on(page.read()) is None


def test_a_run_that_cannot_ignores_what_it_is_asked_for(run, page):
    run.on_restore(lambda asked: pytest.fail("it was asked to save"))
    ask(page, Request(1, 1e9, "save"))
    run.report(1, 0.5)
    assert answer_on(page.read()) is None


def test_requests_and_changes_of_knobs_do_not_hide_each_other(manual):
    page = PageWriter(manual.directory / "knobs.page")
    seen = []
    manual.on_save(lambda asked: (seen.append(asked.kind), asked.done()))
    ask(page, Request(1, 1e9, "save"))
    page.write((2, 3), monotonic())
    assert manual.poll().changed == {"micro_batch": (64, 32)}
    assert seen == ["save"]
    assert manual.poll() is None
    ask(page, Request(2, 1e9, "save"))
    assert manual.poll() is None
    page.write((1, 3), monotonic())
    assert manual.poll() is not None
    assert seen == ["save", "save"]
    page.close()


def test_a_script_that_saves_inside_its_callback_may_report_there(run, page):
    run.on_save(lambda asked: (run.report(5, 0.4), run.poll(), asked.done()))
    ask(page, Request(1, 1e9, "save"))
    run.report(4, 0.5)
    assert answer_on(page.read()).step == 5


def test_an_unchanged_page_is_not_decoded(run, page, monkeypatch):
    run.on_save(save_at())
    run.report(1, 0.5)
    monkeypatch.setattr(PageReader, "read", lambda self: pytest.fail("decoded"))
    for step in range(2, 50):
        run.report(step, 0.5)


def test_a_run_without_files_or_after_its_end_is_not_asked(run, page, monkeypatch):
    run.on_save(lambda asked: pytest.fail("it has ended"))
    run.close()
    ask(page, Request(1, 1e9, "save"))
    run.report(1, 0.5)
    run.on_restore(save_at())
    assert ability_on(page.read()) == ("save",)


def test_a_page_that_cannot_be_written_is_told_once_and_training_goes_on(run):
    os.unlink(run.directory / "knobs.page")
    with pytest.warns(UserWarning, match="cannot be asked to save"):
        run.on_save(save_at())
    run.report(1, 0.5)
    assert run.directory is not None


def rank(monkeypatch, number):
    told = {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29533"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return attach("ranks", knobs={"pace": knob(1.0, [0.5, 1.0])})


def test_of_several_ranks_none_is_asked_for_what_all_must_do(monkeypatch):
    run = rank(monkeypatch, 0)
    for offer in (run.on_save, run.on_restore):
        with pytest.warns(UserWarning, match="several ranks"):
            offer(save_at())
    page = PageReader(run.directory / "knobs.page")
    assert ability_on(page.read()) == ()


def test_rank_0_of_several_is_asked_for_what_it_does_alone_and_the_others_are_not(monkeypatch):
    first, second = rank(monkeypatch, 0), rank(monkeypatch, 1)
    first.on_save(save_at("/out/rank-0"), alone=True)
    second.on_save(lambda asked: pytest.fail("rank 1 was asked"), alone=True)
    page = PageWriter(first.directory / "knobs.page")
    ask(page, Request(1, 1e9, "save"))
    page.write((0,), monotonic())
    for step in (1, 2, 3):
        first.report(step, 0.5)
        second.report(step, 0.5)
    assert answer_on(page.read()) == Answer(1, 1e9, 1, True, "/out/rank-0")
    assert first.knobs.pace == second.knobs.pace == 0.5
    page.close()


def test_a_text_that_is_too_long_is_cut_between_characters_and_moves_no_cursor(run, page):
    run.on_save(lambda asked: asked.failed("ä" * LONGEST_TEXT_BYTES + "\x1b[2J"))
    ask(page, Request(1, 1e9, "save"))
    run.report(1, 0.5)
    assert answer_on(page.read()).text == "ä" * (LONGEST_TEXT_BYTES // 2)
    ask(page, Request(2, 1e9, "save"))
    run.on_save(lambda asked: asked.failed("a\x1b[2J\nb"))
    run.report(2, 0.5)
    assert answer_on(page.read()).text == "a?[2J?b"


def test_the_bytes_are_where_the_protocol_says(tmp_path):
    path = tmp_path / "page"
    create_page(path, (1, 2), 5.0)
    writer = PageWriter(path)
    ask(writer, Request(9, 1.5, "restore", "/a"))
    writer.close()
    data = path.read_bytes()
    assert struct.unpack_from("<QQ", data, 16) == (0, 9)
    packed = struct.pack("<QdBBH1024s", 9, 1.5, 2, 0, 2, b"/a")
    assert data[256 : 256 + 1048] == packed + struct.pack("<I", crc32(packed))


def test_a_page_of_before_this_existed_has_no_request_and_a_run_that_can_nothing(tmp_path):
    create_page(tmp_path / "page", (1, 2), 5.0)
    data = (tmp_path / "page").read_bytes()
    assert (request_on(data), answer_on(data), ability_on(data)) == (None, None, ())


def sealed(layout, *fields):
    data = struct.pack(layout, *fields)
    return data + struct.pack("<I", crc32(data))


hostile = st.one_of(st.integers(0, 3), st.sampled_from((2**16 - 1, 2**32, 2**53, 2**53 + 1, 2**64 - 1)))
moments = st.sampled_from((0.0, 1e9, -1.0, float("nan"), float("inf")))


@settings(max_examples=150, deadline=None)
@given(
    number=hostile, moment=moments, code=st.integers(0, 255), length=st.integers(0, 2**16 - 1), text=st.binary(max_size=1024),
    step=hostile, cut=st.sampled_from((PAGE_BYTES, 3000, 1000, 250, 0)), noise=st.binary(max_size=40), at=st.integers(0, 3000),
)  # fmt: skip
def test_damaged_and_hostile_requests_and_answers_end_in_nothing_or_in_bounds(
    tmp_path_factory, number, moment, code, length, text, step, cut, noise, at
):
    data = bytearray(PAGE_BYTES)
    data[24:32] = struct.pack("<Q", number)
    request, answer = sealed("<QdBxH1024s", number, moment, code, length, text), b""
    answer = sealed("<QdQBxH1024s", number, moment, step, code, length, text)
    data[256 : 256 + len(request)], data[2048 : 2048 + len(answer)] = request, answer
    data[192:200] = sealed("<I", step % 2**32)
    data[at : at + len(noise)] = noise
    page = bytes(data[:cut])
    asked, answered = request_on(page), answer_on(page)
    assert asked is None or (asked.kind in ("", "save", "restore") and len(asked.path) <= LONGEST_TEXT_BYTES)
    assert answered is None or (answered.step <= 2**53 and answered.text.isprintable())
    assert set(ability_on(page)) <= {"save", "restore"}


def test_hostile_pages_under_a_run_that_can_hurt_nothing(run, page):
    run.on_save(lambda asked: asked.done())
    for number, code in ((1, 7), (2**64 - 1, 1), (3, 2)):
        page.put(struct.pack("<Q", number), 24)
        page.put(sealed("<QdBxH1024s", number, float("nan"), code, 2**16 - 1, b"x"), 256)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run.report(number % 100, 0.5)
    assert run.directory is not None
