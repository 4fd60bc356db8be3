"""Autotuner watches diffusion-model training on this machine and tunes it while it runs."""
