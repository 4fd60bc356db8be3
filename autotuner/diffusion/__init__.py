"""The MLX engine: small diffusion models that train, distil and sample while their knobs move."""
