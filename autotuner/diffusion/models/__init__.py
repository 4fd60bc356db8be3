"""Published architectures in MLX, built from diffusers' and transformers' own folders and written back to them."""
