"""The built-in trainer of `prismatic train`: a byte-level language model of Prismatic layers."""
