"""The Ray session of a command or a flow: one that leaves SIGTERM and Ctrl-C to this process."""

from __future__ import annotations

from types import ModuleType

from gigagan_core.stages.ray_session import RaySession
from gigagan_core.tracking.process import take_signals_back


class PoliteRaySession(RaySession):
    """A `RaySession` after whose start SIGTERM still closes the records before the process ends."""

    def ray(self) -> ModuleType:
        """The ray module, connected."""
        module = super().ray()
        take_signals_back()
        return module

    def close(self) -> None:
        """Stop Ray if this session started it; Ray resets SIGTERM to kill the process at once."""
        super().close()
        take_signals_back()
