"""Trainers without checkpoints, a file each: upcycled models of Hugging Face, and programs of the user."""
