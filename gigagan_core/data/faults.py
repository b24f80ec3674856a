"""What goes wrong on the embedded site: a function of (URL, attempt), so that every run meets the same.

About 6% of the URLs never give an image; a further 3.5% fail once and are well the second time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

PERMANENT_SHARES = {
    "not_found": 0.020,  # 404
    "reset": 0.005,  # the connection is reset
    "stall": 0.005,  # a header, then nothing
    "truncated": 0.010,  # fewer bytes than Content-Length says
    "html": 0.010,  # a page in place of the image, with status 200
    "opt_out": 0.010,  # X-Robots-Tag: noai
}
TRANSIENT_SHARES = {
    "reset": 0.010,
    "stall": 0.005,
    "truncated": 0.010,
    "unavailable": 0.010,  # 503
}


@dataclass(frozen=True)
class FaultTable:
    """Shares of URLs, by fault; `permanent` at every attempt, `transient` at the first one only."""

    permanent: Mapping[str, float] = field(default_factory=lambda: dict(PERMANENT_SHARES))
    transient: Mapping[str, float] = field(default_factory=lambda: dict(TRANSIENT_SHARES))

    @property
    def lost_share(self) -> float:
        """The share of URLs that no number of attempts brings in."""
        return sum(self.permanent.values())

    def fault(self, url: str, attempt: int) -> str | None:
        """The fault that attempt 0, 1, ... at a URL meets, or None."""
        position = int.from_bytes(hashlib.sha256(f"fault/{url}".encode()).digest()[:8], "big") / 2**64
        for name, share in self.permanent.items():
            if position < share:
                return name
            position -= share
        for name, share in self.transient.items():
            if position < share:
                return name if attempt == 0 else None
            position -= share
        return None


NO_FAULTS = FaultTable(permanent={}, transient={})
