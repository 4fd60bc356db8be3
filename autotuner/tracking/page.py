"""Lays a report out as one HTML page that needs nothing else: styles, plots and pictures are inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from autotuner.tracking import figures
from autotuner.tracking.comparison import Row, table
from autotuner.tracking.report_run import ChangeLine, ReportRun
from autotuner.tracking.result_file import Grid

MAX_CHANGES = 200
"""Changes of one run that are listed; the journal has them all."""
CHANGE_COLUMNS = ("seconds", "step", "what", "why", "by", "state", "images/s", "peak MiB")
READING = (
    "Held-out loss is measured at full resolution, on the same images and the same noise throughout, with the teacher's "
    "averaged weights. It stands still while a student is distilled, and it does not depend on any knob.",
    "Seconds are wall time from the run's start, evaluations included. A target counts as reached at the first evaluation "
    "at or below it, so these times are no finer than the interval between two evaluations.",
    "The common targets lie between the worst first and the worst last loss within the budget: every run reached each of them.",
    "Every run has one seed. A difference of a few percent between two runs is not evidence; repeat it with other seeds.",
)
READING_PLATFORM = "Measured on {}. How large the effects are for other models, images and machines is not shown here."
READING_INJECTED = (
    "Where a stretch is marked as injected, heat or memory were scripted for the experiment and the slowdown was imposed by "
    "sleeping. What the controller saw and did there is real; the cause was not."
)


def page(runs: Sequence[ReportRun], title: str, notes: Sequence[str]) -> str:
    """The whole page."""
    style = Path(__file__).with_name("report.css").read_text()
    body = "\n".join(_body(runs, title, notes))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(runs: Sequence[ReportRun], title: str, notes: Sequence[str]) -> Iterable[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield from (f'<p class="soft">{escape(note)}</p>' for note in notes)
    yield _comparison(runs)
    yield from _plot(
        "Held-out loss", figures.held_out(runs), "Lower is better. Each point is one evaluation at full resolution."
    )
    metric = next((run.declaration.quality_metric for run in runs if run.declaration.quality_metric), "distance")
    yield from _plot("Few-step quality", figures.quality(runs), _quality_caption(runs, metric))
    yield from _plot("Knobs", figures.knobs(runs), _knob_caption(runs))
    yield from _machines(runs)
    yield "<h2>Changes, and why</h2>"
    yield from (part for index, run in enumerate(runs) for part in _changes(run, index))
    yield from _samples(runs)
    yield f"<h2>How to read this</h2><ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in _reading(runs))}</ul>"
    yield from _origins(runs)


def _reading(runs: Sequence[ReportRun]) -> Iterable[str]:
    yield from READING
    platforms = dict.fromkeys(run.result.platform for run in runs if run.result.platform)
    if platforms:
        yield READING_PLATFORM.format(" and ".join(platforms))
    if any(run.injected or run.result.injected_seconds for run in runs):
        yield READING_INJECTED


def _swatch(index: int) -> str:
    return f'<span class="swatch" style="background: var(--run-{min(index, len(figures.RUNS) - 1)})"></span>'


def _comparison(runs: Sequence[ReportRun]) -> str:
    heads = "".join(f'<th class="number">{_swatch(index)}{escape(run.label)}</th>' for index, run in enumerate(runs))
    rows = "\n".join(_comparison_row(row) for row in table(runs))
    return f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _comparison_row(row: Row) -> str:
    cells = (
        f'<td class="number{" best" if index == row.best else ""}">{escape(cell)}</td>' for index, cell in enumerate(row.cells)
    )
    return f"<tr><th>{escape(row.name)}</th>{''.join(cells)}</tr>"


def _plot(title: str, svg: str, caption: str) -> Iterable[str]:
    if svg:
        yield f"<h2>{escape(title)}</h2><figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _quality_caption(runs: Sequence[ReportRun], metric: str) -> str:
    steps = sorted({point.sampling_steps for run in runs for point in run.quality if point.sampling_steps})
    made = f" of samples made in {' or '.join(map(str, steps))} steps" if steps else ""
    floor = next((run.result.quality_floor for run in runs if run.result.quality_floor is not None), None)
    best = (
        f" As many real images have a distance of {floor:.3f}: no sampler can be expected below it."
        if floor is not None
        else ""
    )
    return f"{metric}{made}, lower is better; the student's once there is one, else the teacher's.{best}"


def _knob_caption(runs: Sequence[ReportRun]) -> str:
    moved = {knob.name for run in runs for knob in run.knobs if knob.moved}
    still = sorted({knob.name for run in runs for knob in run.knobs} - moved)
    rest = f" Offered and never moved: {', '.join(still)}." if still else ""
    return f"The values in force, as the script reported them; every line of a ladder is a value that the script allows.{rest}"


def _machines(runs: Sequence[ReportRun]) -> Iterable[str]:
    times = [point.seconds for run in runs for point in run.memory] + [point.seconds for run in runs for point in run.heat]
    seconds = max(times, default=1.0)
    drawn = [(run, index, figures.machine(run, index, seconds)) for index, run in enumerate(runs)]
    if any(svg for _, _, svg in drawn):
        yield "<h2>Memory and heat</h2>"
        if not any(figures.has_heat(run) for run in runs):
            yield '<p class="soft">No heat sensor gave a reading.</p>'
        yield '<div class="pair">'
        for run, index, svg in drawn:
            if svg:
                badge = ' <span class="badge">injected</span>' if run.injected else ""
                yield f"<figure><figcaption>{_swatch(index)}{escape(run.label)}{badge}</figcaption>{svg}</figure>"
        yield "</div>"


def _changes(run: ReportRun, index: int) -> Iterable[str]:
    held = run.decisions - len({line.record.revision for line in run.changes})
    yield f"<h3>{_swatch(index)}{escape(run.label)}</h3>"
    if not run.changes:
        decided = (
            f"It decided {run.decisions} times and held every time."
            if run.decisions
            else "No controller decided anything here."
        )
        yield f'<p class="soft">No knob was changed by the controller. {decided}</p>'
        return
    heads = "".join(f"<th>{escape(column)}</th>" for column in CHANGE_COLUMNS)
    rows = "\n".join(_change_row(line) for line in run.changes[:MAX_CHANGES])
    more = f" The first {MAX_CHANGES} of {len(run.changes)} are shown." if len(run.changes) > MAX_CHANGES else ""
    yield f'<p class="soft">{run.decisions} decisions, {max(held, 0)} of them to hold; the guard refused {run.vetoes} wishes.'
    yield f"{more}</p>"
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _change_row(line: ChangeLine) -> str:
    record = line.record
    state = f"{record.state}: {record.refusal}" if record.refusal else record.state
    cells = (
        f'<td class="number">{line.seconds:.1f}</td>',
        f'<td class="number">{"-" if record.step is None else record.step}</td>',
        f'<td class="what">{escape(record.what)}</td>',
        f"<td>{escape(record.why)}</td>",
        f"<td>{escape(record.policy)}</td>",
        f"<td>{escape(state)}</td>",
        f'<td class="number">{_effect(record.images_per_second_before, record.images_per_second_after, 1)}</td>',
        f'<td class="number">{_effect(record.peak_bytes_before, record.peak_bytes_after, 2**20)}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"


def _effect(before: float | None, after: float | None, unit: int) -> str:
    """Before and after; a change before the first whole interval has no before."""
    if not after:
        return "-"
    return f"{before / unit:,.0f} → {after / unit:,.0f}" if before else f"- → {after / unit:,.0f}"


def _samples(runs: Sequence[ReportRun]) -> Iterable[str]:
    if not any(run.grids for run in runs):
        return
    yield "<h2>Samples at different numbers of steps</h2>"
    yield '<p class="soft">Every grid starts from the same noise and the same labels.</p>'
    for index, run in enumerate(runs):
        for who in dict.fromkeys(grid.who for grid in run.grids):
            yield f'<h3>{_swatch(index)}{escape(run.label)}: {escape(who)}</h3><div class="grids">'
            yield from (_picture(grid, run) for grid in run.grids if grid.who == who)
            yield "</div>"


def _picture(grid: Grid, run: ReportRun) -> str:
    try:
        data = base64.b64encode(grid.path.read_bytes()).decode()
    except OSError as error:
        return f'<p class="soft">{escape(grid.path.name)} cannot be read: {escape(str(error.strerror))}</p>'
    value = next((f.value for f in run.result.final_quality if (f.who, f.steps) == (grid.who, grid.steps)), None)
    measured = f", {escape(run.declaration.quality_metric or 'distance')} {value:.3f}" if value is not None else ""
    alt = f"samples of the {grid.who} in {grid.steps} steps"
    return (
        f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{grid.steps} steps{measured}</figcaption></figure>"
    )


def _origins(runs: Sequence[ReportRun]) -> Iterable[str]:
    yield "<details><summary>Where the numbers come from</summary><ul>"
    for run in runs:
        model = ", ".join(f"{name} {value}" for name, value in run.declaration.model.items() if not name.startswith("_"))
        facts = [
            f"run {run.run_id}",
            run.declaration.framework,
            model,
            f"{run.result.parameters:,} parameters" if run.result.parameters else "",
            run.result.dataset,
            f"seed {run.result.seed}" if run.result.seed is not None else "",
            *(f"{name} {version}" for name, version in run.result.versions),
        ]
        yield f"<li>{escape(run.label)}: {escape('; '.join(fact for fact in facts if fact))}.</li>"
    yield "</ul><p>Everything on this page was read from the journal and from each run's result file.</p></details>"
