"""Recipes that train Autotuner's policies, the artefacts they made, and how those were judged."""
