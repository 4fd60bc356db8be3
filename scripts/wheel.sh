#!/bin/sh
# Build the wheel, install it with nothing else into an empty environment, import the hook there, and load every artefact.
set -eu
venv=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
"$venv/bin/python" -m pip wheel -q --disable-pip-version-check --no-deps -w "$work" .
"$venv/bin/python" -m venv "$work/bare"
"$work/bare/bin/python" -m pip install -q --disable-pip-version-check --no-deps "$work"/*.whl
cd "$work"
"$work/bare/bin/python" -c 'import autotuner.hook; print("bare install: autotuner.hook imports", autotuner.hook.__file__ is not None)'
"$work/bare/bin/python" -m pip install -q --disable-pip-version-check numpy safetensors
"$work/bare/bin/python" - <<'PY'
import importlib.util
from pathlib import Path
from autotuner.controller.learned import Learned

root = Path(importlib.util.find_spec("autotuner_policies").origin).parent / "artifacts"
names = [Learned.load(card.parent).name for card in sorted(root.glob("*/card.json"))]
assert names, f"no artefact in {root}"
print("artefacts in the wheel:", ", ".join(names))
PY
