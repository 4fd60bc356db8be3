"""Samplers that look at each sample: rows, levels and the number of evaluations by cheap traits of its trajectory."""
