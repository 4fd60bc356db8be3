"""The demo: the whole loop on a real training run, untouched and tuned, under the same injected events."""
