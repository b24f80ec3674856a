"""The Ray session of a command or a flow: one that leaves SIGTERM and Ctrl-C to this process."""

from __future__ import annotations

from types import ModuleType

from gigagan_core.stages.ray_session import RaySession
from gigagan_core.tracking.process import signals_kept


class PoliteRaySession(RaySession):
    """A `RaySession` that can be told to stop: SIGTERM still closes the records before the process ends."""

    def ray(self) -> ModuleType:
        """The ray module, connected."""
        with signals_kept():
            return super().ray()

    def close(self) -> None:
        """Stop Ray if this session started it."""
        with signals_kept():
            super().close()
