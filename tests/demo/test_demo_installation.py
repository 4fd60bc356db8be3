"""What the demo says where its packages are not installed."""

from __future__ import annotations

from autotuner.demo import main as demo


def test_missing_packages_are_named_with_the_command_that_brings_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "NEEDED", ("json", "no_such_package"))
    assert demo.main(["--state", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "no_such_package not installed" in out
    assert "json" not in out
    assert "'.[demo]'" in out
