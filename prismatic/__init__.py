"""Prismatic layers and the log of their gradient dynamics.

Names are loaded when they are first used: `import prismatic.schema` must stay free of torch, which takes seconds to
import and which the reporting side does not install.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prismatic.callbacks import DynamicsLoggerCallback as DynamicsLoggerCallback
    from prismatic.config import RouterConfig as RouterConfig
    from prismatic.config import RunConfig as RunConfig
    from prismatic.dynamics import log_gradient_dynamics as log_gradient_dynamics
    from prismatic.experts import RoutedExperts as RoutedExperts
    from prismatic.logger import DynamicsLogger as DynamicsLogger
    from prismatic.router import Prismatic as Prismatic

__version__ = "0.1.0"

_HOME = {
    "DynamicsLogger": "prismatic.logger",
    "DynamicsLoggerCallback": "prismatic.callbacks",
    "Prismatic": "prismatic.router",
    "RoutedExperts": "prismatic.experts",
    "RouterConfig": "prismatic.config",
    "RunConfig": "prismatic.config",
    "log_gradient_dynamics": "prismatic.dynamics",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'prismatic' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
