"""Which change ``undo`` takes back: the newest that none has taken back yet."""

import pytest

from autotuner.daemon.requests import last_standing
from autotuner.journal import ChangeRecord


def change(revision, reason="policy", state="observed", knob="pace"):
    return ChangeRecord("r", revision, knob, 1, 0, 1.0, 0.5, reason, "", "", "", 0.0, state=state)


@pytest.mark.parametrize(
    ("changes", "standing"),
    [
        ([], []),
        ([change(1), change(2)], [2]),
        ([change(1), change(2), change(3, "undone")], [1]),
        ([change(1), change(2, "undone"), change(3)], [3]),
        ([change(1), change(2, state="refused"), change(3, state="lost")], [1]),
        ([change(1), change(2, knob="pace"), change(2, knob="micro_batch")], [2, 2]),
    ],
)
def test_the_last_standing_change_is_what_no_undo_has_taken_back(changes, standing):
    assert [found.revision for found in last_standing(changes)] == standing
