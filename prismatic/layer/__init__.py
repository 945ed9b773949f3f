"""The Prismatic layer: a clean block, its perturbed copies and the router that merges them."""
