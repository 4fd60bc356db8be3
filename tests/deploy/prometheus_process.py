"""A real Prometheus on the loopback, with the rules of deploy/ and a scrape every second."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "autotuner.json").read_text())
PATIENCE_SECONDS = 60.0
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$run": ".*"}


def expression(query):
    """A dashboard's query with its variables filled in."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, f"a variable is left in {query}"
    return query


def dashboard_queries():
    """Every query that the dashboard asks Prometheus, by the panel that asks."""
    queries = {f"{p['title']} {t['refId']}": expression(t["expr"]) for p in DASHBOARD["panels"] for t in p["targets"]}
    return queries | {a["name"]: expression(a["expr"]) for a in DASHBOARD["annotations"]["list"]}


class Prometheus:
    def __init__(self, directory: Path, target_port: int) -> None:
        program = shutil.which("prometheus")
        assert program, "prometheus is missing: apt install prometheus (Debian), brew install prometheus (macOS)"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "prometheus.log"
        configuration = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        configuration = configuration.replace("127.0.0.1:9871", f"127.0.0.1:{target_port}").replace(
            "interval: 5s", "interval: 1s"
        )
        for name in ("recording.yml", "alerts.yml"):
            shutil.copy(DEPLOY / "prometheus" / name, directory / name)
        (directory / "prometheus.yml").write_text(configuration)
        flags = (f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data")
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [program, *flags, f"--web.listen-address=127.0.0.1:{port}"], stderr=log, stdout=log
            )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)

    def get(self, path, **parameters):
        """The data of an API call; None while Prometheus is starting."""
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                document = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        except OSError:
            return None
        assert document["status"] == "success", document
        return document["data"]

    def query(self, query):
        """The series that a query finds now."""
        data = self.get("query", query=query)
        return data["result"] if data else []

    def target(self):
        """The scraped daemon as Prometheus sees it."""
        data = self.get("targets")
        return data["activeTargets"][0] if data and data["activeTargets"] else {}

    def rules(self):
        """Every rule as Prometheus evaluates it."""
        data = self.get("rules")
        return [rule for group in data["groups"] for rule in group["rules"]] if data else []

    def unanswered(self, queries, before_each=lambda: None):
        """Names of the queries that have not found anything within the time allowed."""
        waiting = dict(queries)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting and time.monotonic() < deadline:
            before_each()
            waiting = {name: query for name, query in waiting.items() if not self.query(query)}
            time.sleep(0.2)
        return sorted(waiting)
