"""Exit hooks and signal handlers of a logger: none before its first record, none after close()."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import gc, signal, sys
from multiprocessing.util import _finalizer_registry as at_worker_exit
from prismatic.runfile.logger import DynamicsLogger
STEP = {"expert_gradients": {"expert_0": {"top_norm": 1.0}}}

def registered():
    own_handler = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert own_handler == (len(at_worker_exit) > 0)
    return own_handler

logger = DynamicsLogger(sys.argv[1])
assert not registered()
"""
CASES = {
    "a step": "logger.log(0, STEP); assert registered(); logger.close()",
    "a fact": "logger.log_run({'seed': 1}); assert registered(); logger.close()",
    "an event": "logger.event('note', 'text'); assert registered(); logger.close()",
    "a with block": "with logger: assert registered()",
    "no record": "logger.close()",
    "a logger that is deleted": "logger.log(0, STEP); assert registered(); del logger; gc.collect()",
    "a step after close": "logger.close(); logger.log(0, STEP)",
    "the last of two": """
with DynamicsLogger(sys.argv[1] + "2") as other:
    logger.log(0, STEP)
    logger.close()
    assert registered()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_logger_is_registered_from_its_first_record_until_it_is_closed(tmp_path: Path, case: str):
    program = f"{BEGIN}{CASES[case]}\nassert not registered()"
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "dynamics.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_handler_of_the_user_stays(tmp_path: Path):
    program = f"""if True:
        import signal
        mine = lambda *_: None
        signal.signal(signal.SIGTERM, mine)
        from prismatic.runfile.logger import DynamicsLogger
        with DynamicsLogger({str(tmp_path / "x.db")!r}) as logger:
            logger.log_run({{"seed": 1}})
            assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGTERM) is mine"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
