"""Who may use which encoder: no training stage ever sees the judge, which gives every reported figure."""

from __future__ import annotations

from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import Artifact, Input

CONDITION = "condition"
JUDGE = "judge"


def require_role(encoder: Input, role: str) -> None:
    """Raise GigaganError where an encoder artifact was trained for another role.

    role: "condition" (conditions the GAN, scores training data) or "judge". A weight file from outside has no role
    and may serve as either; `evaluate` still refuses a judge whose sum equals the condition's.
    """
    if not isinstance(encoder, Artifact):
        return
    found = encoder.notes.get("role")
    if encoder.kind != "encoder" or found != role:
        what = f"an encoder of role {found}" if encoder.kind == "encoder" else f"a {encoder.kind}"
        reason = ": what judges the models must take no part in making them" if found == JUDGE else ""
        raise GigaganError(
            f"{encoder.short} is {what} and role {role} is needed{reason}; name a {role} encoder"
        )
