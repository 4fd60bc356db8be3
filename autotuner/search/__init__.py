"""Proposes the architecture of a project's next run from the runs that have finished (Optuna; runs in a child process)."""
