"""A run as the journal knows it, and commands over it."""

from autotuner.cli import main
from autotuner.journal import ChangeRecord, RunRecord, model_key
from autotuner.knobs import declare
from autotuner.messages import Declaration

DECLARATION = Declaration(
    "cats-1", "cats", 1, 0.0, 1000.0, (declare("micro_batch", 32, [8, 16, 32]), declare("pace", 1.0, [0.5, 1.0]))
)
RUN = RunRecord(
    "cats-1", "cats", "mlx", model_key(DECLARATION), DECLARATION.to_json(), 1000.0, 1000.0, "rules", "act",
    step=400, images=12800, loss=0.02, final_held_out_loss=0.031, peak_bytes=3 * 2**30, last_values_json="[16.0, 1.0]",
)  # fmt: skip
CHANGE = ChangeRecord(
    "cats-1", 1, "micro_batch", 2, 1, 32.0, 16.0, "memory_high", "micro_batch 32 to 16", "memory is nearly full", "rules",
    1010.0, predicted_bytes=2.5 * 2**30, state="observed", delivered_unix=1010.0, acknowledged_unix=1011.5,
    observed_unix=1030.0, step=57, images_per_second_before=812.0, images_per_second_after=640.0,
    peak_bytes_before=3.0 * 2**30, peak_bytes_after=2.0 * 2**30,
)  # fmt: skip


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
