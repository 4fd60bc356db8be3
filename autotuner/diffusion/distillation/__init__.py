"""Students that sample in few steps: what they learn, when a stage has been learned, and what they cost in quality."""
