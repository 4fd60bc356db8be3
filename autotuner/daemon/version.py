"""Which Autotuner this is."""

VERSION = "0.1.0"
"""The distribution's too: pyproject.toml reads it here, so that no start has to search the installed packages for it."""
