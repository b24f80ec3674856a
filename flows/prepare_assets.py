"""Weights and data sets from outside are brought to where a cluster's machines find them."""

from __future__ import annotations

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows.runtime import FLOW
from gigagan_core.assets.catalogue import assets
from gigagan_core.assets.fetch import fetch
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.protocols.named import protocol as protocol_of


@task(name="fetch-asset", task_run_name="{name}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=30)
def fetch_asset(name: str, mirror: str | None = None) -> dict[str, str]:
    """One asset; a retry continues with the bytes that are missing. Gives a row of the flow's table."""
    (each,) = assets([name])
    done = fetch(each, mirror=mirror)
    if done.pinned:
        get_run_logger().warning(f"{name}: no public source states its sha256; {done.sha256} is pinned now")
    return {"asset": name, "how": done.how, "sha256": done.sha256, "path": str(done.path)}


@flow(name="prepare-assets", **FLOW)
def prepare_assets(
    names: list[str] | None = None, protocol: str | None = None, mirror: str | None = None
) -> list[str]:
    """Assets of the catalogue -> the assets folder, checked.

    Args:
        names: of the assets, as `gigagan assets list` shows them.
        protocol: also everything that this evaluation protocol needs.
        mirror: address below which the files lie, instead of the published ones.

    Returns the paths.
    """
    wanted = [*(names or []), *(protocol_of(protocol).assets if protocol else ())]
    if not wanted:
        raise GigaganError("no asset is named; give names, or protocol")
    rows = [fetch_asset(each.name, mirror) for each in assets(wanted)]
    create_table_artifact(key="assets", table=rows, description="Assets and where they lie")
    return [row["path"] for row in rows]
