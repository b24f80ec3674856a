"""The page for people: what it asks for, what it shows, and that it asks no other host."""

from __future__ import annotations

import io
import os
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from gigagan_core.serving.api import create_app
from gigagan_core.serving.page import create_page, mount_page

from .conftest import FACTS, encoded
from .running import serving, write_models

CHROMIUM = "/usr/bin/chromium"
KEPT = Path(__file__).resolve().parents[2] / "docs" / "results" / "serve-page.png"
SMALL = 300_000


def labels(page, *kinds: type) -> set[str]:
    """Of what the page shows."""
    shown = (block for block in page.blocks.values() if getattr(block, "label", None) and block.visible)
    return {block.label for block in shown if isinstance(block, kinds or object)}


def test_tabs_and_fields_fit_the_model(studio, backend) -> None:
    page = create_page(studio)
    assert labels(page, gr.Tab) == {"Generate", "Mix", "Upsample"}
    assert {"Prompt", "Second prompt", "Share of the second prompt", "Scale", "Upsample"} <= labels(page)
    backend.facts = {**FACTS, "conditioning": "class", "classes": 10, "upsampler": None}
    page = create_page(studio)
    assert labels(page, gr.Tab) == {"Generate"}
    assert "Class, 0 to 9" in labels(page)
    assert "Upsample" not in labels(page)


def test_the_page_and_the_api_share_a_port_and_the_page_names_no_other_host(studio) -> None:
    with TestClient(mount_page(create_app(studio), studio)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.post("/v1/generate", json={"prompts": ["a"]}).status_code == 200
        assert set(client.get("/v1/none").json()) == {"error"}
        page = client.get("/").text
        asked_for = re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(https?://[^\"' >]+)", page
        )
        assert [url for url in asked_for if "testserver" not in url] == []
        assert "googleapis" not in client.get("/theme.css").text
        # nothing of this machine is handed out
        assert client.get("/gradio_api/file=/etc/passwd").status_code == 403
        assert client.get(f"/gradio_api/file={Path(__file__)}").status_code == 403


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, save_tiny_encoder: Callable[..., None]):
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, *write_models(folder, save_tiny_encoder)) as running:
        yield running


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    options = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", *options])
        yield started
        started.close()


def shown(tab, selector: str) -> Image.Image:
    """The first picture below a selector, as the browser got it."""
    address = tab.locator(f"{selector} img").first.get_attribute("src")
    with urllib.request.urlopen(address, timeout=30) as response:
        return Image.open(io.BytesIO(response.read()))


@pytest.mark.browser
@pytest.mark.timeout(400)
def test_a_person_generates_mixes_and_upsamples(server, browser, tmp_path: Path) -> None:
    tab = browser.new_page(viewport={"width": 1240, "height": 900})
    asked: list[str] = []
    wrong: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(server.url)
    tab.locator("#generate").wait_for(timeout=60_000)
    tab.get_by_label("Prompt", exact=True).fill("a red apple")
    tab.locator("#generate").click()
    tab.locator("#generated img").nth(3).wait_for(timeout=60_000)
    assert shown(tab, "#generated").size == (128, 128)
    tab.wait_for_timeout(500)
    picture = tmp_path / "page.png"
    tab.screenshot(path=picture)
    _keep(picture)

    tab.get_by_role("tab", name="Mix").click()
    tab.locator("#mix-button").click()
    tab.locator("#mixed img").nth(2).wait_for(timeout=60_000)
    tab.get_by_label("Layout of the first, texture of the second").check()
    tab.locator("#crossover").wait_for(timeout=10_000)
    tab.locator("#mix-button").click()
    tab.wait_for_timeout(3000)
    tab.screenshot(path=tmp_path / "mix.png")

    tab.get_by_role("tab", name="Upsample").click()
    tab.locator("#upsample").click()
    toast = tab.get_by_text("there is no picture yet")
    toast.wait_for(timeout=30_000)
    (tmp_path / "small.png").write_bytes(encoded((24, 16)))
    tab.locator("#picture input[type=file]").set_input_files(tmp_path / "small.png")
    tab.locator("#picture img").wait_for(timeout=30_000)
    tab.locator("#upsample").click()
    tab.locator("#upsampled img").first.wait_for(timeout=60_000)
    assert shown(tab, "#upsampled").size == (192, 128)
    tab.screenshot(path=tmp_path / "upsample.png")

    elsewhere = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert elsewhere == []
    assert wrong == []
    assert "Traceback" not in server.errors.read_text()


def _keep(screenshot: Path) -> None:
    """The screenshot of the documentation, where GIGAGAN_KEEP_SCREENSHOTS asks for a new one."""
    if os.environ.get("GIGAGAN_KEEP_SCREENSHOTS"):
        with Image.open(screenshot) as image:
            image.convert("RGB").quantize(256).save(KEPT, optimize=True)
        assert KEPT.stat().st_size < SMALL
