"""The catalogue is honest, and `asset:NAME` stands for a file wherever one is asked for."""

from __future__ import annotations

import re
import urllib.parse

import pytest

from gigagan_core.assets.catalogue import CATALOGUE, asset
from gigagan_core.assets.fetch import fetch
from gigagan_core.assets.folder import require, resolve, resolve_named
from gigagan_core.encoders.weights import architectures
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extractors.registry import DINO
from gigagan_core.evaluation.names import PUBLISHED_INCEPTION


@pytest.mark.parametrize("each", CATALOGUE.values(), ids=lambda each: each.name)
def test_an_asset_says_where_it_comes_from_and_how_sure_its_sum_is(each):
    address = urllib.parse.urlsplit(each.address)
    assert address.scheme in ("http", "https")
    assert address.scheme == "https" or each.sum_state != "unknown"
    assert each.licence
    assert each.needed_by
    assert "/" not in each.file
    if each.sha256 is None:
        assert each.sum_state in ("unknown", "weaker")
    else:
        assert re.fullmatch(r"[0-9a-f]{64}", each.sha256)
    assert (each.sum_source == "no public source found") == (each.sum_state == "unknown")
    own = ("inception", "inception-legacy_pytorch", *DINO, "vgg", "alex")
    assert each.images is None or each.member
    assert each.reader is None or each.reader in own or each.reader in architectures()
    # torchvision, pytorch-fid and OpenAI put the sum, or its beginning, into the file's name or address
    named = re.search(r"-([0-9a-f]{8})\.pth", each.file)
    assert named is None or each.sha256.startswith(named[1])


def test_file_names_are_used_once_and_the_inceptions_are_the_published_ones():
    files = [each.file for each in CATALOGUE.values()]
    assert len(set(files)) == len(files)
    assert {asset("inception").sha256, asset("inception-legacy").sha256} == PUBLISHED_INCEPTION


def test_a_reference_is_resolved_or_names_the_command(mirror, weights):
    assert resolve("/some/path") == "/some/path"
    assert resolve_named("vgg:/some/path") == "vgg:/some/path"
    with pytest.raises(
        GigaganError, match=r"asset weights is not in .*; `gigagan assets fetch weights` gets it"
    ):
        resolve("asset:weights")
    path = str(fetch(weights, mirror=mirror.url).path)
    assert resolve("asset:weights") == path
    assert resolve_named("ViT-B-32:asset:weights") == f"ViT-B-32:{path}"
    assert resolve_named("asset:weights") == f"inception:{path}"
    with pytest.raises(GigaganError, match="no asset 'wieghts'; did you mean 'weights'"):
        resolve("asset:wieghts")
    with pytest.raises(GigaganError, match="is not a network"):
        resolve_named("asset:coco-2014-val")


def test_all_that_is_missing_is_named_at_once_with_one_command():
    sentence = (
        r"protocol x needs inception and coco-2014-val, not in .*; "
        r"`gigagan assets fetch inception coco-2014-val` gets them"
    )
    with pytest.raises(GigaganError, match=sentence):
        require(["inception", "coco-2014-val"], "protocol x")


def test_every_place_that_takes_a_weight_file_takes_an_asset(mirror, weights, tmp_path, monkeypatch):
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.encoders.perceptual import load_lpips
    from gigagan_core.evaluation.extractors.registry import load_extractor
    from gigagan_core.stages import curate, references
    from gigagan_core.store.artifact import ExternalFile

    askers = (
        lambda: load_extractor("asset:weights"),
        lambda: load_extractor("inception:asset:weights"),
        lambda: load_encoder("ViT-B-32:asset:weights"),
        lambda: load_lpips("vgg:asset:weights"),
        lambda: references.encoder(None, "ViT-B-32:asset:weights"),
        lambda: references.lpips_weights("vgg:asset:weights"),
        lambda: curate._weight_file("asset:weights", None, "nsfw"),
        lambda: curate._clip_vit_l14("ViT-L-14:asset:weights"),
    )
    for ask in askers:
        with pytest.raises(GigaganError, match="`gigagan assets fetch weights` gets it"):
            ask()
    path = fetch(weights, mirror=mirror.url).path
    assert references.lpips_weights("vgg:asset:weights") == ExternalFile(
        f"vgg:{path}", weights.sha256, read_as="vgg"
    )
    assert references.encoder(None, "asset:weights") == ExternalFile(
        f"inception:{path}", weights.sha256, read_as="inception"
    )
    assert curate._weight_file("asset:weights", None, "nsfw") == ExternalFile(str(path), weights.sha256)
    # what was fetched is opened now, and is no network
    for ask in (askers[0], askers[2], askers[3]):
        with pytest.raises(GigaganError, match=re.escape(str(path))):
            ask()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openais_archives_are_read_by_their_published_sum_and_no_other_archive_is(tmp_path, monkeypatch):
    import torch

    from gigagan_core.assets import catalogue
    from gigagan_core.encoders import weights as reading
    from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
    from gigagan_core.store.fingerprint import sha256_file

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    }
    torch.manual_seed(0)
    architecture = ClipArchitecture.from_config(config)
    model = ClipModel(architecture).half().float().eval()
    file = tmp_path / "openai.pt"
    with reading.quiet_torchscript(), torch.no_grad():
        traced = torch.jit.trace_module(model, {"encode_image": torch.zeros(1, 3, 16, 16)})
        traced.save(str(file))
    with pytest.raises(GigaganError, match="TorchScript archive"):
        reading.read_weights(file)
    published = catalogue.Asset("tiny", "", "https://x/y", "y", "MIT", ("x",), sha256=sha256_file(file))
    monkeypatch.setitem(CATALOGUE, "tiny", published)
    loaded = reading.load_plain(architecture, reading.read_weights(file), "tiny")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
