"""What this machine says of its heat, memory and power: sensors behind one contract, and the registry that merges them."""
