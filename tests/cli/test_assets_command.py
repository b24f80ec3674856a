"""`gigagan assets` and what `gigagan evaluate` says of missing ones."""

from __future__ import annotations

import http.server
import json
import threading
from functools import partial

import pytest

from gigagan_core.assets import catalogue
from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.store.fingerprint import sha256_file


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A plain file server, as `python -m http.server` of another machine's assets folder."""
    served = tmp_path / "served"
    served.mkdir()
    file = served / "PartiPrompts.tsv"
    file.write_text("Prompt\tCategory\tChallenge\na cat\tAnimals\tBasic\n")
    known = catalogue.asset("parti-prompts")
    changed = catalogue.Asset(**{**vars(known), "sha256": sha256_file(file), "size": None})
    monkeypatch.setitem(CATALOGUE, "parti-prompts", changed)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_fetch_verify_list(inside, mirror, tmp_path, capfd):
    shown = inside("assets", "fetch", "parti-prompts", "--mirror", mirror, "--json")
    assert shown.exit_code == 0, shown.stderr
    file = tmp_path / "home" / "assets" / "PartiPrompts.tsv"
    assert file.is_file()
    listed = inside("assets", "list").stdout
    assert len([line for line in listed.splitlines() if " missing " in line]) == len(CATALOGUE) - 1
    assert next(line for line in listed.splitlines() if "parti-prompts" in line).split()[1] == "fetched"
    right = inside("assets", "verify")
    assert right.exit_code == 0, right.stderr
    file.write_text(file.read_text().replace("a cat", "a dog"))
    wrong = inside("assets", "verify")
    assert wrong.exit_code == 1
    assert "1 of 1 assets are not as they should be (parti-prompts)" in wrong.stderr
    capfd.readouterr()
    assert inside("assets", "verify", "--json").exit_code == 1
    document = json.loads(capfd.readouterr().out)
    assert list(document["wrong"]) == ["parti-prompts"]
    assert document["right"] == {}
    assert "parti-prompts" in document["error"]
    file.unlink()
    gone = inside("assets", "verify")
    assert gone.exit_code == 1
    assert "1 of 1 assets are not as they should be (parti-prompts)" in gone.stderr
    assert "PartiPrompts.tsv was fetched and is gone" in " ".join(gone.stderr.split())


def test_an_asset_that_cannot_be_fetched_keeps_no_other_away(inside, mirror, tmp_path, capfd):
    names = ("inception", "parti-prompts", "nsfw")  # the mirror has the second alone
    shown = inside("assets", "fetch", *names, "--mirror", mirror, "--json")
    assert shown.exit_code == 1
    assert (tmp_path / "home" / "assets" / "PartiPrompts.tsv").is_file()
    document = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in document["assets"]] == ["parti-prompts"]
    assert {name: "answers HTTP 404" in sentence for name, sentence in document["failed"].items()} == {
        "inception": True,
        "nsfw": True,
    }
    assert document["error"].startswith(
        "2 of 3 assets were not fetched (inception, nsfw); asset inception: http"
    )
    again = inside("assets", "fetch", *names, "--mirror", mirror)
    assert again.exit_code == 1
    assert "parti-prompts: already there" in again.stderr
    nowhere = inside("assets", "fetch", "--all", "--mirror", "nowhere")
    assert nowhere.exit_code == 1
    assert nowhere.stderr.count("nowhere is no http or https address") == 1


def test_what_is_misspelt_or_not_named_is_one_sentence(inside):
    for arguments, sentence in (
        (["fetch"], "name the assets to fetch, or give --protocol NAME or --all"),
        (["fetch", "--protocol", "coco2017"], "did you mean 'coco2017-5k'"),
        (["fetch", "--protocol", "openmoji-heldout"], "protocol openmoji-heldout needs no asset"),
        (["fetch", "inceptoin"], "did you mean 'inception'"),
        (["verify", "inception"], "`gigagan assets fetch inception` gets it"),
    ):
        done = inside("assets", *arguments)
        assert done.exit_code == 1
        assert sentence in done.stderr


def test_json_is_one_document(gigagan):
    done = gigagan("assets", "list", "--json")
    document = json.loads(done.stdout)
    assert {each["name"] for each in document["assets"]} == set(CATALOGUE)
    inception = next(each for each in document["assets"] if each["name"] == "inception")
    assert (inception["state"], inception["sum"]) == ("missing", "known")


def test_an_evaluation_names_what_is_missing_before_it_looks_for_a_model(inside):
    done = inside("evaluate", "--protocol", "coco2017-5k")
    assert done.exit_code == 1
    command = "`gigagan assets fetch inception clip-vit-b32 coco-2017-captions coco-2017-val` gets them"
    assert command in done.stderr
    assert "no protocol" not in done.stderr
    wrong = inside("evaluate", "--protocol", "coco-5k")
    assert wrong.exit_code == 1
    assert "coco2017-5k" in wrong.stderr
