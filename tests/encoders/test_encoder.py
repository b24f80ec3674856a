"""The encoder protocol: tokens, features, images, folders and outside weight files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import (
    ClipEncoder,
    Preprocessing,
    encoder_name,
    load_encoder,
    save_encoder,
)
from gigagan_core.encoders.protocol import Encoder
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file

from .conftest import TINY, make_model

CAPTIONS = ["red apple", "", "waving hand: dark skin tone", "an apple " * 30]
START, END = 49406, 49407


def test_it_keeps_the_protocol_and_its_shapes(encoder: ClipEncoder, images: torch.Tensor) -> None:
    assert isinstance(encoder, Encoder)
    assert (encoder.context_length, encoder.width, encoder.embed_dim, encoder.image_size) == (10, 24, 12, 16)
    tokens = encoder.tokenize(CAPTIONS)
    assert (tokens.shape, tokens.dtype) == ((4, 10), torch.int64)
    text = encoder.text_tokens(tokens)
    assert (text.features.shape, text.features.dtype) == ((4, 10, 24), torch.float32)
    assert (text.eot_index.shape, text.eot_index.dtype) == ((4,), torch.int64)
    assert (text.mask.shape, text.mask.dtype) == ((4, 10), torch.bool)
    assert encoder.text_embed(tokens).shape == (4, 12)
    assert encoder.image_embed(images).shape == (4, 12)


def test_the_mask_ends_with_the_end_of_text(encoder: ClipEncoder) -> None:
    tokens = encoder.tokenize(CAPTIONS)
    text = encoder.text_tokens(tokens)
    assert tokens[:, 0].eq(START).all()
    assert tokens.gather(1, text.eot_index[:, None]).eq(END).all()
    assert text.eot_index[:2].tolist() == [3, 1]  # "red apple" has two words, "" none
    for row in range(4):
        assert text.mask[row].tolist() == [position <= text.eot_index[row] for position in range(10)]


def test_a_caption_longer_than_the_context_is_cut_and_still_ends(encoder: ClipEncoder) -> None:
    tokens = encoder.tokenize([CAPTIONS[3]])
    assert tokens[0, -1] == END
    assert encoder.text_tokens(tokens).eot_index.item() == 9
    assert encoder.text_tokens(tokens).mask.all()


def test_a_caption_that_names_the_end_of_text_ends_there(encoder: ClipEncoder) -> None:
    text = encoder.text_tokens(encoder.tokenize(["red <end_of_text> apple"]))
    assert text.eot_index.item() == 2


def test_padding_does_not_reach_the_words(encoder: ClipEncoder) -> None:
    tokens = encoder.tokenize(["red apple"])
    other = tokens.clone()
    other[0, 5:] = 320
    mask = encoder.text_tokens(tokens).mask
    features = [encoder.text_tokens(some).features[mask] for some in (tokens, other)]
    torch.testing.assert_close(*features)
    torch.testing.assert_close(encoder.text_embed(tokens), encoder.text_embed(other))


@pytest.mark.parametrize("captions", [["", "a"], ["red apple", "an apple " * 30], CAPTIONS])
def test_a_caption_is_read_without_the_padding_behind_the_longest(
    encoder: ClipEncoder, captions: list[str]
) -> None:
    tokens = encoder.tokenize(captions)
    longest = int(encoder.text_tokens(tokens).eot_index.max()) + 1
    seen = []
    hook = encoder.model.transformer.resblocks[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape[1])
    )
    short = encoder.caption_embed(tokens)
    hook.remove()
    assert seen == [longest]
    torch.testing.assert_close(short, encoder.text_embed(tokens), rtol=1e-5, atol=1e-6)


def test_text_tokens_are_the_input_to_the_last_block(encoder: ClipEncoder) -> None:
    seen = []
    last = encoder.model.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokens = encoder.tokenize(CAPTIONS)
    encoder.text_embed(tokens)
    hook.remove()
    assert torch.equal(encoder.text_tokens(tokens).features, seen[0])


def test_another_text_layer_is_another_hidden_state(folder: Path) -> None:
    outputs = []
    encoder = load_encoder(folder)
    hook = encoder.model.transformer.resblocks[-1].register_forward_hook(
        lambda module, inputs, output: outputs.append(output)
    )
    tokens = encoder.tokenize(CAPTIONS)
    encoder.text_embed(tokens)
    hook.remove()
    assert torch.equal(encoder.text_tokens(tokens, -1).features, outputs[0])
    embedded = encoder.text_tokens(tokens, text_layer=-4).features
    assert torch.equal(embedded, encoder.model.token_embedding(tokens) + encoder.model.positional_embedding)
    with pytest.raises(GigaganError, match="text_layer -5 is not between -4 and -1"):
        encoder.text_tokens(tokens, text_layer=-5)


def test_the_gradient_of_an_image_embedding_reaches_every_pixel(
    encoder: ClipEncoder, images: torch.Tensor
) -> None:
    images.requires_grad_()
    encoder.image_embed(images).square().sum().backward()
    assert images.grad.abs().gt(0).float().mean() > 0.99
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_an_image_is_resized_antialiased_and_normalised(encoder: ClipEncoder) -> None:
    inputs = []
    hook = encoder.model.visual.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    stripes = torch.ones(1, 3, 48, 48)
    stripes[..., ::2] = -1
    encoder.image_embed(stripes)
    encoder.image_embed(torch.ones(1, 3, 40, 40))
    hook.remove()
    striped, white = (given * encoder.std + encoder.mean for given in inputs)
    assert striped.shape == (1, 3, 16, 16)
    # Every third of alternating columns alternates too; antialiased, they are nearly plain grey.
    torch.testing.assert_close(striped[..., 2:-2], torch.full_like(striped[..., 2:-2], 0.5), atol=0.1, rtol=0)
    torch.testing.assert_close(white, torch.ones_like(white))


def test_it_stays_frozen_inside_a_model_in_training(encoder: ClipEncoder) -> None:
    outer = torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in outer[0].modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_saved_and_loaded_it_gives_equal_embeddings(tmp_path: Path, images: torch.Tensor) -> None:
    model = make_model(seed=3)
    before = ClipEncoder(model, Preprocessing(), name="three", sha256="", role="judge")
    save_encoder(tmp_path, model, Preprocessing(), name="three", role="judge")
    after = load_encoder(tmp_path)
    tokens = after.tokenize(CAPTIONS)
    assert torch.equal(before.image_embed(images), after.image_embed(images))
    assert torch.equal(before.text_embed(tokens), after.text_embed(tokens))
    assert (after.name, after.role) == ("three", "judge") == (encoder_name(tmp_path), "judge")
    assert after.sha256 == sha256_file(tmp_path / "model.safetensors")
    assert after.logit_scale == pytest.approx(1 / 0.07)


@pytest.mark.parametrize("pool", ["tok", "avg"])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_it_equals_open_clip_on_the_same_folder(
    tmp_path: Path, images: torch.Tensor, pool: str, quick_gelu: bool
) -> None:
    import open_clip

    architecture = replace(TINY, pool=pool, quick_gelu=quick_gelu)
    save_encoder(tmp_path, make_model(architecture), Preprocessing(), name="tiny")
    ours = load_encoder(tmp_path)
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    encoder = ClipEncoder(theirs.eval(), Preprocessing(), name="theirs", sha256="")
    tokens = ours.tokenize(CAPTIONS)
    assert torch.equal(tokens, open_clip.tokenize(CAPTIONS, context_length=10))
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(ours.image_embed(images), encoder.image_embed(images), **close)
    torch.testing.assert_close(ours.text_embed(tokens), encoder.text_embed(tokens), **close)
    torch.testing.assert_close(
        ours.text_tokens(tokens).features, encoder.text_tokens(tokens).features, **close
    )
    assert (encoder.width, encoder.embed_dim, encoder.image_size) == (24, 12, 16)


def test_the_large_architectures_of_the_paper_have_open_clip_s_parameters() -> None:
    import open_clip

    from gigagan_core.encoders.weights import architecture_config

    for name in ("ViT-L-14", "ViT-B-32-quickgelu", "ViT-g-14"):
        config = architecture_config(name)
        with torch.device("meta"):
            ours = ClipModel(ClipArchitecture.from_config(config))
            known = {key for key in config if key != "custom_text"}
            theirs = open_clip.CLIP(**{key: config[key] for key in known})
        shapes = [
            {key: tuple(value.shape) for key, value in model.state_dict().items()} for model in (ours, theirs)
        ]
        assert shapes[0] == shapes[1]


def test_an_outside_weight_file_is_loaded_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor
) -> None:
    from gigagan_core.encoders import weights

    monkeypatch.setattr(weights, "architecture_config", lambda name: TINY.to_config())
    model = make_model()
    ours = ClipEncoder(model, Preprocessing(), name="x", sha256="")
    plain = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    for stored in (plain, {"state_dict": {f"module.{name}": value for name, value in plain.items()}}):
        path = tmp_path / "weights.pt"
        torch.save(stored, path)
        encoder = load_encoder(f"ViT-B-32:{path}")
        torch.testing.assert_close(
            encoder.image_embed(images), ours.image_embed(images), atol=1e-2, rtol=1e-2
        )
        assert (encoder.name, encoder.role) == ("ViT-B-32", None)
        assert encoder.image_embed(images).dtype == torch.float32


def test_published_weights_are_refused_under_an_architecture_that_is_not_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GELU and QuickGELU have the same parameters: only the sum tells which a file was trained with."""
    from gigagan_core.assets.catalogue import CATALOGUE
    from gigagan_core.encoders import weights

    monkeypatch.setattr(weights, "architecture_config", lambda name: TINY.to_config())
    path = tmp_path / "ViT-B-32.pt"
    torch.save(make_model().state_dict(), path)
    published = replace(CATALOGUE["clip-vit-b32"], sha256=sha256_file(path))
    monkeypatch.setitem(CATALOGUE, "clip-vit-b32", published)
    hashed, sha256 = [], weights.sha256_file
    monkeypatch.setattr(weights, "sha256_file", lambda file: hashed.append(file) or sha256(file))
    sentence = f"encoder ViT-B-32:{path} is OpenAI's CLIP ViT-B/32 .*; write ViT-B-32-quickgelu:{path}"
    with pytest.raises(GigaganError, match=sentence):
        load_encoder(f"ViT-B-32:{path}")
    hashed.clear()
    assert load_encoder(f"ViT-B-32-quickgelu:{path}").sha256 == published.sha256
    assert hashed == [path]  # of a gigabyte, so once
    monkeypatch.setitem(CATALOGUE, "clip-vit-b32", replace(published, sha256="0" * 64))
    assert load_encoder(f"ViT-B-32:{path}").name == "ViT-B-32"


def test_a_convolutional_tower_is_left_to_open_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: torch.Tensor
) -> None:
    import open_clip

    from gigagan_core.encoders import weights

    config = TINY.to_config()
    config["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    (tmp_path / "tiny-resnet.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-resnet.json")
    monkeypatch.setattr(weights, "architecture_config", lambda name: config)
    theirs = open_clip.create_model("tiny-resnet").eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    encoder = load_encoder(f"tiny-resnet:{tmp_path / 'weights.pt'}")
    assert (encoder.image_size, encoder.width, encoder.embed_dim) == (32, 24, 12)
    tokens = encoder.tokenize(CAPTIONS)
    assert torch.equal(encoder.text_embed(tokens), theirs.encode_text(tokens))
    assert encoder.image_embed(images).shape == (4, 12)
    torch.save(make_model().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(GigaganError, match="do not fit the architecture"):
        load_encoder(f"tiny-resnet:{tmp_path / 'weights.pt'}")


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere", "no such folder; give an encoder's folder or ARCH:PATH"),
        ("ViT-L-13:{weights}", r"no architecture 'ViT-L-13'; did you mean ViT-L-1"),
        ("ViT-L-14:openai", "no such weight file; .* nothing is downloaded"),
        ("ViT-B-16-SigLIP:{weights}", "would have to be downloaded"),
        ("ViT-L-14:{weights}", "do not fit the architecture .*visual.*class_embedding is \\[16\\]|missing"),
        ("ViT-L-14:{evil}", "holds more than tensors"),
        ("ViT-L-14:{text}", "damaged"),
        ("{empty}", "no open_clip_config.json there"),
        ("{broken}", "is damaged"),
        ("{weightless}", "no model.safetensors there"),
    ],
)
def test_a_place_without_an_encoder_is_one_sentence(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], place: str, sentence: str
) -> None:
    paths = {name: tmp_path / name for name in ("evil", "text", "empty", "broken", "weightless")}
    torch.save({"state_dict": Evil()}, paths["evil"])
    paths["text"].write_text("not weights")
    for name in ("empty", "broken", "weightless"):
        paths[name].mkdir()
    (paths["broken"] / "open_clip_config.json").write_text("{")
    config = json.loads((folder / "open_clip_config.json").read_text())
    (paths["weightless"] / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(GigaganError, match=sentence) as caught:
        load_encoder(place.format(weights=folder / "model.safetensors", **paths))
    assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "stored",
    [torch.zeros(2), [torch.zeros(2)], {}, {"state_dict": [1]}, {0: torch.zeros(2)}, {"epoch": 3}],
    ids=["tensor", "list", "empty", "list inside", "numbered", "numbers"],
)
def test_a_file_that_holds_no_state_dict_is_one_sentence(stored: object, tmp_path: Path) -> None:
    from gigagan_core.encoders import weights

    torch.save(stored, tmp_path / "weights.pt")
    with pytest.raises(
        GigaganError, match=r"weights\.pt holds no state_dict; save the model's state_dict\(\)"
    ):
        weights.read_weights(tmp_path / "weights.pt")


def test_loading_a_folder_imports_neither_open_clip_nor_torchvision(folder: Path) -> None:
    code = (
        "import sys\n"
        "from gigagan_core.encoders.open_clip_encoder import load_encoder\n"
        f"encoder = load_encoder({str(folder)!r})\n"
        "encoder.text_tokens(encoder.tokenize(['red apple']))\n"
        "heavy = ('open_clip', 'torchvision', 'timm', 'transformers', 'torch._dynamo', 'sympy')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("large", [0, 10**9])
def test_loading_leaves_the_random_state_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    from gigagan_core.encoders import weights

    monkeypatch.setattr(weights, "LARGE", large)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    encoder = load_encoder(folder)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.device.type == "cpu" for parameter in encoder.parameters())
