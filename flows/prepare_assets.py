"""Weights and data sets from outside are brought to where a cluster's machines find them."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows.runtime import FLOW
from gigagan_core.assets.address import address_of
from gigagan_core.assets.catalogue import assets
from gigagan_core.assets.download import CutOff
from gigagan_core.assets.fetch import fetch, not_fetched
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.protocols.named import protocol as protocol_of
from gigagan_core.text import for_markdown


def is_passing(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed fetch may go better half a minute later: a wrong sum would be fetched again, whole."""
    return isinstance(state.data, CutOff)


@task(
    name="fetch-asset",
    task_run_name="{name}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=30,
    retry_condition_fn=is_passing,
)
def fetch_asset(name: str, mirror: str | None = None) -> dict[str, str]:
    """One asset; a retry continues with the bytes that are missing. Gives a row of the flow's table."""
    (each,) = assets([name])
    done = fetch(each, mirror=mirror)
    if done.pinned:
        get_run_logger().warning(f"{name}: no public source states its sha256; {done.sha256} is pinned now")
    return {"asset": name, "how": done.how, "sha256": done.sha256, "path": str(done.path), "why": ""}


@flow(name="prepare-assets", **FLOW)
def prepare_assets(
    names: list[str] | None = None, protocol: str | None = None, mirror: str | None = None
) -> list[str]:
    """Assets of the catalogue -> the assets folder, checked. One that cannot be fetched does not keep the others away.

    Args:
        names: of the assets, as `gigagan assets list` shows them.
        protocol: also everything that this evaluation protocol needs.
        mirror: address below which the files lie, instead of the published ones.

    Returns the paths.
    """
    named = [*(names or []), *(protocol_of(protocol).assets if protocol else ())]
    if not named:
        raise GigaganError("no asset is named; give names, or protocol")
    wanted = assets(named)
    address_of(wanted[0], mirror)  # a mirror that is none is said once
    rows, failed = [], {}
    for each in wanted:
        try:
            rows.append(fetch_asset(each.name, mirror))
        except GigaganError as error:
            failed[each.name] = error
            why = for_markdown(error, 1000)
            rows.append({"asset": each.name, "how": "not fetched", "sha256": "", "path": "", "why": why})
    create_table_artifact(key="assets", table=rows, description="Assets and where they lie")
    if failed:
        raise not_fetched(failed, len(wanted))
    return [row["path"] for row in rows]
