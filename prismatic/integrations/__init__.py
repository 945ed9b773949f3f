"""Callbacks for training loops: PyTorch, Lightning, Hugging Face Trainer, Accelerate. Each module needs its library."""
