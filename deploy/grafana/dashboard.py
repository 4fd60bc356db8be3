"""The Grafana dashboard of ``panels``; ``deploy/generate.py`` writes it to autotuner.json."""

from __future__ import annotations

from typing import Any

from panels import PANELS, RUN, Panel

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(number: int, row: Panel) -> dict[str, Any]:
    """One panel as Grafana stores it."""
    x, y, w, h = row.place
    instant = row.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": expression,
            "legendFormat": legend,
            "range": not instant,
            "instant": instant,
            **({"format": "table"} if instant else {}),
        }
        for index, (expression, legend) in enumerate(row.queries)
    ]
    document: dict[str, Any] = {
        "id": number,
        "type": row.kind,
        "title": row.title,
        "description": row.sentence,
        "gridPos": {"x": x, "y": y, "w": w, "h": h},
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": _defaults(row), "overrides": _overrides(row)},
        "options": _OPTIONS[row.kind] | ({"textMode": "value_and_name"} if row.named else {}),
        "targets": targets,
    }
    if instant:
        document["transformations"] = _TABLE
    return document


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area", "textMode": "value"},
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "none"}},
    "table": {"showHeader": True},
}
_HIDDEN = ("Time", "__name__", "instance", "job", "__name__ 1", "__name__ 2")
_TABLE = [
    {"id": "merge", "options": {}},
    {
        "id": "organize",
        "options": {
            "excludeByName": dict.fromkeys(_HIDDEN, True),
            "renameByName": {"Value #A": "in force", "Value #B": "pinned"},
        },
    },
]


def _defaults(row: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": row.unit,
        "thresholds": {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in row.thresholds]},
    }
    if row.kind == "timeseries":
        defaults["custom"] = {"lineWidth": 1, "showPoints": "never", "spanNulls": False, **row.custom}
        if row.lines:
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
    if row.mappings:
        options = {value: {"text": text, "index": index} for index, (value, text) in enumerate(row.mappings.items())}
        defaults["mappings"] = [{"type": "value", "options": options}]
    return defaults


def _overrides(row: Panel) -> list[dict[str, Any]]:
    overrides = []
    if row.dashed:
        dash = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 6]}}
        overrides.append({"matcher": {"id": "byRegexp", "options": row.dashed}, "properties": [dash]})
    matching, unit = row.right
    if matching:
        properties = [{"id": "custom.axisPlacement", "value": "right"}, {"id": "unit", "value": unit}]
        overrides.append({"matcher": {"id": "byRegexp", "options": matching}, "properties": properties})
    return overrides


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    changed = f"changes(autotuner_run_knob_acknowledged{{{RUN}}}[$__rate_interval]) > 0"
    return {
        "id": None,
        "uid": "autotuner",
        "title": "Autotuner",
        "description": "Training runs, the knobs that Autotuner moves, and why.",
        "tags": ["autotuner", "training"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "timezone": "browser",
        "time": {"from": "now-30m", "to": "now"},
        "annotations": {
            "list": [
                {
                    "name": "Knob changes",
                    "enable": True,
                    "datasource": DATASOURCE,
                    "iconColor": "orange",
                    "expr": changed,
                    "step": "5s",
                    "titleFormat": "{{knob}} changed",
                    "textFormat": "{{run}}",
                    "tagKeys": "knob",
                }
            ]
        },
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("instance", "Machine", "label_values(autotuner_build_info, instance)"),
                _variable("run", "Run", 'label_values(autotuner_run_info{instance=~"$instance"}, run)'),
            ]
        },
        "panels": [panel(number, row) for number, row in enumerate(PANELS, start=1)],
    }
