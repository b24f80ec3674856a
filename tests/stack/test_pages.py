"""Both pages in a headless chromium: what a person would see of the pipeline's run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import PipelineRuns
from .running import ROOT, Platform

pytestmark = [pytest.mark.stack, pytest.mark.browser, pytest.mark.timeout(900)]

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 90_000
RESULTS = ROOT / "docs" / "results"
STAGES_ON_THE_PAGE = ("ingest train", "train-encoder condition", "train-base", "evaluate")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM.exists(), "chromium is not installed; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=list(QUIET), timeout=PATIENCE_MS
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1440, "height": 1000})
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


def see(page: Any, *texts: str) -> None:
    """Wait until each text is on the page, for a person to see."""
    for text in texts:
        try:
            page.get_by_text(text).first.wait_for()
        except Exception as error:
            page.screenshot(path=Path(tempfile.gettempdir()) / "gigagan-page.png")
            raise AssertionError(
                f"{text!r} is not on {page.url}: {page.inner_text('body')[:3000]}"
            ) from error


def keep(page: Any, name: str) -> None:
    """A picture for the documents, where one is asked for with GIGAGAN_KEEP_RESULTS=1."""
    if os.environ.get("GIGAGAN_KEEP_RESULTS") == "1":
        page.screenshot(path=RESULTS / f"{name}.png")


def test_prefects_page_shows_the_run_and_its_stages(
    pipeline_runs: PipelineRuns, platform: Platform, page: Any
) -> None:
    run = platform.prefect(f"flow_runs/{pipeline_runs.watched}")
    address = platform.exports["PREFECT_API_URL"].removesuffix("/api")
    page.goto(f"{address}/runs/flow-run/{run['id']}")
    see(page, run["name"], "Completed")
    page.get_by_text("Task Runs", exact=True).first.click()
    see(page, *STAGES_ON_THE_PAGE)
    keep(page, "stack-prefect-run")


def test_prefects_page_shows_the_deployments_of_every_flow(platform: Platform, page: Any) -> None:
    address = platform.exports["PREFECT_API_URL"].removesuffix("/api")
    page.goto(f"{address}/deployments")
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    local = [each for each in declared if each["work_pool"]["name"] == "local"]
    see(page, f"{len(local)} Deployments")
    for deployment in local:  # a page shows ten
        page.get_by_placeholder("Search deployments").fill(deployment["name"])
        see(page, deployment["name"])


def test_mlflows_page_shows_the_experiment_and_its_runs(
    pipeline_runs: PipelineRuns, platform: Platform, page: Any
) -> None:
    base = next(
        run for run in pipeline_runs.mlflow_runs(platform) if run["name"] == "train-base" and run["metrics"]
    )
    address = platform.exports["MLFLOW_TRACKING_URI"]
    page.goto(f"{address}/#/experiments")
    see(page, "gigagan")
    page.goto(run_page(platform, base["id"]))
    see(page, "train-base", "generator/loss")
    keep(page, "stack-mlflow-run")


def run_page(platform: Platform, run: str) -> str:
    from gigagan_core.stack.services import ask

    address = platform.exports["MLFLOW_TRACKING_URI"]
    found = ask(f"{address}/api/2.0/mlflow/runs/get?run_id={run}")["run"]["info"]
    return f"{address}/#/experiments/{found['experiment_id']}/runs/{run}"
