"""Python runs this at its start when ``autotuner run`` has put its directory on PYTHONPATH. It never raises.

It goes on to the ``sitecustomize`` that would have run without it, makes ``autotuner`` importable when the script's Python does
not have it, and waits for the imports of the libraries for which there is an adapter.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(os.path.dirname(HERE))
ADAPTERS = {
    "accelerate.accelerator": "autotuner.adapters.accelerate_attach",
    "mflux.models.common.training.trainer": "autotuner.adapters.mflux_attach",
}
"""The module after whose import a trainer can be adapted, and the adapter with ``install(module)``."""


class Finder:
    """Lets the others find a module, and calls the adapter once it has been executed."""

    def __init__(self) -> None:
        self.looking = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that also installs the adapter."""
        if name == "autotuner" and not self.looking:
            return self._others(name, path) or importlib.util.spec_from_file_location(
                name, os.path.join(PACKAGE, "__init__.py"), submodule_search_locations=[PACKAGE]
            )
        if name not in ADAPTERS or self.looking:
            return None
        spec = self._others(name, path)
        if spec is not None and spec.loader is not None:
            _install_after(spec.loader, ADAPTERS[name])
        return spec

    def _others(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        self.looking = True
        try:
            for finder in sys.meta_path:
                spec = None if finder is self else finder.find_spec(name, path)
                if spec is not None:
                    return spec
            return None
        finally:
            self.looking = False


def _install_after(loader: Any, adapter: str) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        try:
            importlib.import_module(adapter).install(module)
        except Exception as error:
            _say(f"{adapter} does not fit this version of {module.__name__} and stays off; training goes on: {error!r}")

    loader.exec_module = exec_module


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"autotuner: {text}\n")


def _next_sitecustomize() -> None:
    """Run the one that ours hides, as ``site`` would have."""
    places = [place for place in sys.path if os.path.abspath(place or os.curdir) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", places)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _start() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - the script's Python is not ours
        _say(f"the script runs on Python {sys.version.split()[0]}, the hook needs 3.11 or later; it trains without being tuned")
        return
    sys.meta_path.insert(0, Finder())


try:
    _start()
except Exception as error:
    _say(f"nothing is tuned: {error!r}")
_next_sitecustomize()
