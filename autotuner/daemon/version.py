"""Which Autotuner this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "diffusion-autotuner"


def product_version() -> str:
    """The installed version, or ``source`` when it runs from an uninstalled checkout."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "source"
