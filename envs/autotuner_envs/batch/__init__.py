"""Many simulated runs at once, compiled: equal to ``training_run.TrainingRun`` step for step, hundreds of times as fast.

The scalar environment drives the product's own loop, window and guard, and is the reference. This package says the same in
arrays of records that numba compiles; ``tests/envs/test_env_batch.py`` plays both side by side. Laws that are plain functions
of numbers (learning curves, costs, the script's plan) are the very same functions, compiled.
"""
