"""The files under deploy/: generated ones are fresh, rules pass promtool, the dashboard is sound and asks for what exists."""

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GOLDEN = (ROOT / "tests" / "daemon" / "golden" / "metrics.txt").read_text()
EXPOSED = {line.split(" ")[2] for line in GOLDEN.splitlines() if line.startswith("# TYPE")}
DASHBOARD = json.loads((DEPLOY / "grafana" / "autotuner.json").read_text())
RULES = {name: yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in ("recording.yml", "alerts.yml")}
ALL_RULES = [rule for file in RULES.values() for group in file["groups"] for rule in group["rules"]]
UNITS = {"_bytes": "bytes", "_seconds": "s", "_celsius": "celsius", "_ratio": "percentunit"}
TARGETS = [(panel, target) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def promtool(*arguments):
    program = shutil.which("promtool")
    assert program, "promtool is missing: apt install prometheus (Debian), brew install prometheus (macOS)"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def metrics_in(expression):
    """Names of our metrics, not those of recording rules (which contain a colon)."""
    return set(re.findall(r"(?<![:\w])autotuner_\w+(?![:\w])", expression))


def test_generated_files_are_fresh(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("deploy_generate", DEPLOY / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, content in module.files().items():
        assert path.read_bytes() == content, f"{path.name} is stale; run: python deploy/generate.py"


def test_prometheus_accepts_the_configuration():
    code, said = promtool("check", "config", "deploy/prometheus/prometheus.yml")
    assert code == 0, said


def test_the_rules_have_no_lint():
    files = [f"deploy/prometheus/{name}" for name in RULES]
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    assert code == 0, said


def test_the_rules_fire_when_they_should_and_only_then():
    code, said = promtool("test", "rules", "tests/deploy/rules_test.yml")
    assert code == 0, said


def test_every_alert_is_tested():
    tests = yaml.safe_load((ROOT / "tests/deploy/rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in ALL_RULES if "alert" in rule}


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_use_exposed_metrics_only(rule):
    recorded = {other["record"] for other in ALL_RULES if "record" in other}
    assert metrics_in(rule["expr"]) <= EXPOSED
    assert set(re.findall(r"[a-z_]+:\w+:\w+", rule["expr"])) <= recorded


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_alerts_say_how_bad_what_and_why(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"}


def test_the_dashboard_can_be_provisioned():
    assert DASHBOARD["id"] is None
    assert DASHBOARD["uid"] == "autotuner"
    assert "__inputs" not in DASHBOARD
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance", "run"}


def test_panels_are_numbered_once_and_do_not_overlap():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, (a, b)


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_a_panel_names_its_source_its_queries_and_what_it_shows(panel):
    references = [target["refId"] for target in panel["targets"]]
    assert len(references) == len(set(references)) >= 1
    assert panel["description"].endswith(".")
    for holder in (panel, *panel["targets"]):
        assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("panel", "target"), TARGETS, ids=lambda item: item.get("title") or item["refId"])
def test_the_dashboard_uses_exposed_metrics_and_their_units(panel, target):
    used = metrics_in(target["expr"])
    assert used
    assert used <= EXPOSED
    units = {unit for name in used for suffix, unit in UNITS.items() if name.endswith(suffix)}
    overridden = [p["value"] for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit"]
    assert units <= {panel["fieldConfig"]["defaults"]["unit"], *overridden}


def test_variables_and_annotations_use_exposed_metrics():
    queries = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    queries += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    for query in queries:
        assert metrics_in(query)
        assert metrics_in(query) <= EXPOSED


def test_provisioning_files_are_what_grafana_reads():
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/autotuner.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/autotuner.yml").read_text())["providers"]
    assert (source["type"], source["access"], source["url"]) == ("prometheus", "proxy", "http://127.0.0.1:9090")
    assert (provider["type"], provider["options"]) == ("file", {"path": "$AUTOTUNER_DASHBOARDS"})


def test_the_scraped_port_is_the_default_one():
    from autotuner.config import Config

    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{Config(Path()).port}"]
