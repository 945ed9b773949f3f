"""The built-in trainer: a byte-level language model of Prismatic layers."""
