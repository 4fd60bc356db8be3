"""A journal and trainer directories as a short experiment leaves them, made from formulas."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path

import pytest

from autotuner.hook.files import slug
from autotuner.journal import (
    ChangeRecord,
    DecisionRecord,
    EvaluationRecord,
    Journal,
    MachineRecord,
    Reader,
    RunRecord,
    TelemetryRecord,
    journal_path,
)
from autotuner.knobs import declare
from autotuner.messages import Declaration
from autotuner.tracking.report import ReportRun

MEBIBYTE = 2**20
START = 1e9
KNOBS = (
    declare("resolution", 28, [16, 20, 28]),
    declare("micro_batch", 64, [8, 16, 32, 64]),
    declare("distill", 0, [0, 1, 2]),
    declare("pace", 1.0, [0.5, 0.7, 0.85, 1.0]),
    declare("cache_limit", 2**30, [2**26, 2**28, 2**30]),
)


def png(width: int = 56, height: int = 56, shade: int = 128) -> bytes:
    """A grey PNG with a gradient."""
    rows = b"".join(b"\0" + bytes((shade + 2 * (x + y)) % 256 for x in range(width)) for y in range(height))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Experiment:
    """Runs that a test can add to one journal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = journal_path(directory)
        self.count = 0

    def add(self, label: str, speed: float = 1.0, guided: bool = True, injected: bool = True) -> tuple[str, Path]:
        """A run of 150 s whose loss falls ``speed`` times as fast; its id and its trainer's directory."""
        self.count += 1
        start = START + 1000 * self.count
        run_id = f"{slug(label)}-{self.count}"
        journal = Journal(self.journal)
        journal.write(self._run(run_id, label, start, guided))
        self._ticks(journal, run_id, start, guided, injected)
        evaluations = [self._evaluation(second, speed, guided) for second in range(0, 150, 6)]
        for row in evaluations:
            quality = None if math.isnan(row["quality"]) else row["quality"]
            journal.write(
                EvaluationRecord(
                    run_id, start + 3.0 + row["seconds"], row["step"], row["held_out_loss"], quality, 4, 0.3, row["stage"], None
                )
            )
        if guided:
            self._changes(journal, run_id, start)
        journal.close()
        return run_id, self._result(run_id, evaluations, injected)

    def reader(self) -> Reader:
        """The journal, open for reading."""
        return Reader(self.journal)

    def _run(self, run_id, label, start, guided):
        declaration = Declaration(
            run_id,
            label,
            1,
            0.0,
            start,
            KNOBS,
            "mlx",
            150.0,
            quality_metric="frechet_pca64",
            model={"width": 64, "depth": 4, "_trial": 2},
        )
        return RunRecord(
            run_id,
            label,
            "mlx",
            "key",
            declaration.to_json(),
            start,
            start,
            policy="learned" if guided else "",
            mode="act" if guided else "",
            ended_unix=start + 155,
            outcome="finished",
            step=2000,
            images=128_000,
            final_held_out_loss=0.2,
            peak_bytes=900 * MEBIBYTE,
        )

    def _ticks(self, journal, run_id, start, guided, injected):
        for second in range(3, 155):
            hot = injected and 60 <= second < 110
            resolution = 16 if guided and second < 50 else 28
            micro_batch = 16 if guided and 70 <= second < 115 else 64
            stage = 0 if second < 108 else 1 if second < 130 else 2
            values = [resolution, micro_batch, stage, 0.7 if guided and hot else 1.0, 2**30]
            used = 200 + micro_batch * resolution**2 // 110
            journal.write(
                TelemetryRecord(
                    run_id, start + second, 14 * second, 900 * second, 0.3, 0.07, 900.0, used * MEBIBYTE, 80 * MEBIBYTE,
                    (used + 120) * MEBIBYTE, None, 1, stage, json.dumps(values),
                )
            )  # fmt: skip
            available = (450 if hot else 900) - used
            journal.write(
                MachineRecord(
                    start + second,
                    16 * 2**30,
                    available * MEBIBYTE,
                    0,
                    0,
                    2 if hot else 0,
                    55 + 30 * hot + 3 * math.sin(second),
                    int(hot),
                )
            )

    def _evaluation(self, second, speed, guided):
        loss = 0.18 + 0.7 * math.exp(-speed * second / 30)
        measured = second % 18 == 0
        return {
            "step": 14 * second,
            "seconds": float(second),
            "images": 900 * second,
            "held_out_loss": loss,
            "quality": 40 * loss if measured else math.nan,
            "quality_steps": 4,
            "quality_of": "teacher" if second < 108 else "student",
            "took_seconds": 0.3,
            "stage": 0 if second < 108 else 1,
        }

    def _changes(self, journal, run_id, start):
        steps = (
            (5, "resolution", 2, 0, 28, 16, "early_low_resolution", "coarse structure is learned faster at fewer pixels"),
            (50, "resolution", 0, 2, 16, 28, "plateau", "the loss at 16 px fell by less than its noise for 3 intervals"),
            (
                70,
                "micro_batch",
                3,
                1,
                64,
                16,
                "memory_pressure",
                "peak 812 MiB & rising, <450 MiB left: step down before it swaps",
            ),
            (71, "pace", 3, 1, 1.0, 0.7, "heat", "heat level 2 and the step time is 1.4 of the best at these knobs"),
        )
        for revision, (second, knob, before, after, old, new, reason, why) in enumerate(steps, 1):
            journal.write(
                DecisionRecord(run_id, start + second, "act", 1, reason, f"{knob} {old} to {new}", why, "learned", changed=1)
            )
            journal.write(
                ChangeRecord(
                    run_id, revision, knob, before, after, old, new, reason, f"{knob} {old:g} to {new:g}", why,
                    "learned", start + second,
                    state="observed", step=14 * second, images_per_second_before=880.0, images_per_second_after=1720.5,
                    peak_bytes_before=812.0 * MEBIBYTE, peak_bytes_after=400.0 * MEBIBYTE,
                )
            )  # fmt: skip
        for second in range(10, 150, 5):
            vetoed = "cool_down" if second % 50 == 0 else ""
            journal.write(DecisionRecord(run_id, start + second, "act", 0, "hold", "hold", "no gain", "learned", vetoed=vetoed))

    def _result(self, run_id, evaluations, injected):
        directory = self.directory / "results" / run_id
        directory.mkdir(parents=True)
        grids = []
        for who in ("teacher", "student"):
            for steps in (2, 4, 8, 16):
                name = f"grid-{who}-{steps:02d}.png"
                (directory / name).write_bytes(png(shade=12 * steps))
                grids.append({"who": who, "steps": steps, "file": name})
        last = {**evaluations[-1], "step": 2050, "seconds": 150.1, "held_out_loss": evaluations[-1]["held_out_loss"] - 0.001}
        document = {
            "version": 1,
            "steps": 2050,
            "images": 131_200,
            "held_out_loss": last["held_out_loss"],
            "quality_floor": 0.41,
            "evaluations": [
                {**row, "quality": None if math.isnan(row["quality"]) else row["quality"]} for row in [*evaluations, last]
            ],
            "peak_bytes": 912 * MEBIBYTE,
            "injected_seconds": 21.5 if injected else 0.0,
            "parameters": 412_345,
            "config": {"seed": 0},
            "data": {"name": "fashion-mnist"},
            "platform": "Linux x86_64",
            "versions": {"mlx": "0.32.4"},
            "final_qualities": [
                {"who": "teacher", "steps": 4, "quality": 9.5},
                {"who": "teacher", "steps": 16, "quality": None},
                {"who": "student", "steps": 4, "quality": 7.25},
            ],
            "grids": grids,
        }
        (directory / "result.json").write_text(json.dumps(document))
        return directory


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """An experiment without runs."""
    return Experiment(tmp_path)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[ReportRun]:
    """The same training as written and tuned."""
    experiment = Experiment(tmp_path_factory.mktemp("pair"))
    identities = [experiment.add("as written", 1.0, guided=False), experiment.add("autotuned", 1.35)]
    with experiment.reader() as reader:
        return [ReportRun.load(reader, *identity) for identity in identities]
