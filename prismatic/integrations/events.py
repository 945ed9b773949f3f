"""Events and facts that every callback records alike: a skipped step, a resumed training, how a training ended."""

from __future__ import annotations

from prismatic.runfile.logger import DynamicsLogger


def record_skipped_step(logger: DynamicsLogger, step: int) -> None:
    """Record that the GradScaler skipped this step of the optimizer."""
    logger.event("skipped_step", "gradients overflowed: the scaler skipped this step", level="warning", step=step)


def record_resumed(logger: DynamicsLogger, step: int) -> None:
    """Record that the training was resumed at this step."""
    logger.event("resumed", f"training goes on at step {step}", step=step)


def exit_state(error: BaseException | None) -> str:
    """Return how a training ended: "finished", "crashed", or "interrupted" by KeyboardInterrupt or SystemExit."""
    return "finished" if error is None else "crashed" if isinstance(error, Exception) else "interrupted"
