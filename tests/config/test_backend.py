"""Settings of backends, from a site's file and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gigagan_core.backends.base import LocalBackend, open_backend
from gigagan_core.config.backend import BackendSettings, backend_settings
from gigagan_core.config.base import result_settings
from gigagan_core.errors import GigaganError


def test_without_a_word_work_is_done_here() -> None:
    assert backend_settings().kind == "local"
    assert isinstance(open_backend(backend_settings()), LocalBackend)


def test_a_sites_file_is_the_start_and_the_command_line_has_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = {"kind": "ray-job", "ray_job": {"address": "http://a:1"}, "prices": {"gpu_hour": 2}}
    (tmp_path / "site.json").write_text(json.dumps(site))
    monkeypatch.setenv("GIGAGAN_BACKEND", str(tmp_path / "site.json"))
    assert backend_settings().ray_job.address == "http://a:1"
    assert backend_settings().kind == "ray-job"
    assert backend_settings("local").prices.gpu_hour == 2
    changed = backend_settings(None, ["ray_job.address=http://b:2"])
    assert (changed.kind, changed.ray_job.address) == ("ray-job", "http://b:2")
    (tmp_path / "site.json").write_text("{")
    with pytest.raises(GigaganError, match="name a JSON file"):
        backend_settings()


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("rayjob", [], "did you mean 'ray-job'"),
        ("kuberay", [], r"give kuberay\.image"),
        ("local", ["ray_job.adress=x"], "did you mean 'address'"),
    ],
)
def test_what_is_misspelt_or_missing_is_one_sentence(kind: str, changes: list[str], sentence: str) -> None:
    with pytest.raises(GigaganError, match=sentence):
        backend_settings(kind, changes)


def test_where_work_is_done_decides_no_result() -> None:
    assert result_settings(BackendSettings()) == {}


def test_a_cluster_without_an_address_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(GigaganError, match="needs the cluster's address"):
        open_backend(backend_settings("ray-job"))
