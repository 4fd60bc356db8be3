"""How good sampled images are: distances, neighbourhoods and paired errors, each beside what real images reach."""

import autotuner.diffusion.blas  # noqa: F401  before any module of this package imports mlx.nn: the first BLAS wins
