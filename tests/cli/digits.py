"""A training file that is done in a second: a tiny network on the digits of scikit-learn."""

from __future__ import annotations


def toml(
    steps: int, *, micro_batches: str = "[8, 16]", evaluate_every_steps: int = 100, evaluation: str = "", more: str = ""
) -> str:
    """The file's text; ``evaluation`` are further lines of that section, ``more`` further sections."""
    return f"""
out = "here"
[data]
source = "digits"
[budget]
steps = {steps}
[model]
width = 16
depth = 1
patch = 2
[training]
batch = 16
[knobs]
micro_batch = 16
micro_batches = {micro_batches}
{more}
[evaluation]
evaluate_every_steps = {evaluate_every_steps}
quality_images = 32
held_out_images = 32
{evaluation}
"""
