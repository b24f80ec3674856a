"""Extractors beside the programs whose numbers they must give."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from gigagan_core.encoders.tokenizer import tokenize
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.captions import prefixed_tokens
from gigagan_core.evaluation.extractors.clip import TRUNCATED, OpenClip
from gigagan_core.evaluation.extractors.registry import ExtractorPlace, load_extractor
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.figures import Naming
from gigagan_core.evaluation.frechet import frechet_distance
from gigagan_core.evaluation.names import PUBLISHED_INCEPTION, metric_name
from gigagan_core.evaluation.picture_folder import cropped_and_resized
from gigagan_core.store.fingerprint import sha256_file

TORCHSCRIPT_IS_OLD = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def pictures_of(folder: Path) -> torch.Tensor:
    return torch.stack(
        [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in sorted(folder.iterdir())]
    )


def clean_fid_features(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """clean-fid's own folder features; it looks for its weights in /tmp, here in the folder of `weights`."""
    from cleanfid import features, fid

    original = features.InceptionV3W
    monkeypatch.setattr(features, "InceptionV3W", lambda path, **more: original(str(weights.parent), **more))
    model = features.build_feature_extractor("clean", torch.device("cpu"), use_dataparallel=False)
    return fid.get_folder_features(
        str(folder),
        model,
        num_workers=0,
        batch_size=8,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )


# ---- Inception -------------------------------------------------------------------------------------


@TORCHSCRIPT_IS_OLD
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_inception_features_and_distance_are_clean_fids_on_the_same_images(
    scripted_inception, picture_folder, monkeypatch
):
    from cleanfid.fid import fid_from_feats

    folders = picture_folder(40, 48, 1), picture_folder(40, 400, 2)
    theirs = [clean_fid_features(folder, scripted_inception, monkeypatch) for folder in folders]
    extractor = load_extractor(f"inception:{scripted_inception}")
    ours = [extractor.features(pictures_of(folder), batch_size=16) for folder in folders]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-6)
    # fewer images than dimensions on both sides, so compare on 16 fixed directions
    directions = np.random.default_rng(0).standard_normal((2048, 16))
    sets = [FeatureSet.of(torch.from_numpy(each.numpy().astype(np.float64) @ directions)) for each in ours]
    known = fid_from_feats(*(each.astype(np.float64) @ directions for each in theirs))
    assert frechet_distance(*(each.moments for each in sets)).distance == pytest.approx(known, rel=1e-5)


@pytest.mark.slow
@TORCHSCRIPT_IS_OLD
@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
def test_the_whole_of_clean_fid_and_of_ours_agree_at_2048_dimensions(
    scripted_inception, picture_folder, monkeypatch, tmp_path
):
    from cleanfid import features, fid

    from gigagan_core.evaluation.folder_metrics import FolderMetrics, measure

    real, fake = picture_folder(2100, 24, 1), picture_folder(2100, 32, 2)
    original = features.InceptionV3W
    folder = str(scripted_inception.parent)
    monkeypatch.setattr(features, "InceptionV3W", lambda path, **more: original(folder, **more))
    known = fid.compute_fid(
        str(real), str(fake), device=torch.device("cpu"), num_workers=0, verbose=False, use_dataparallel=False
    )
    place = ExtractorPlace(f"inception:{scripted_inception}")
    (figure,) = measure(FolderMetrics(real, fake, (place,), ("fd",), work=tmp_path)).figures
    assert figure.value == pytest.approx(known, rel=1e-5)


def test_the_legacy_mode_is_clean_fids_too(picture_folder, monkeypatch, tmp_path):
    from cleanfid import features, fid, inception_pytorch

    torch.manual_seed(0)
    monkeypatch.setattr(
        torch.nn.init, "trunc_normal_", lambda tensor, **more: tensor
    )  # a minute, for nothing
    stored = {}

    def random_weights(*args: object, **more: object) -> dict[str, torch.Tensor]:
        network = inception_pytorch._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        stored.update(
            {name: torch.randn_like(value.float()) * 0.05 for name, value in network.state_dict().items()}
        )
        stored.update(
            {name: value.abs() + 1 for name, value in stored.items() if name.endswith("running_var")}
        )
        return stored

    monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", random_weights)
    model = features.build_feature_extractor("legacy_pytorch", torch.device("cpu"), use_dataparallel=False)
    folder = picture_folder(3, 40, 1)
    theirs = fid.get_folder_features(
        str(folder),
        model,
        num_workers=0,
        batch_size=3,
        device=torch.device("cpu"),
        mode="legacy_pytorch",
        verbose=False,
    )
    weights = tmp_path / "pt_inception.pth"
    torch.save(stored, weights)
    extractor = load_extractor(f"inception-legacy_pytorch:{weights}")
    np.testing.assert_allclose(extractor.features(pictures_of(folder)).numpy(), theirs, rtol=1e-5, atol=1e-6)
    assert extractor.name.startswith("inception-legacy-pytorch-")
    assert extractor.logits(torch.zeros(1, 2048)).shape == (1, 1008)


@TORCHSCRIPT_IS_OLD
def test_an_inception_of_other_weights_is_never_called_fid(scripted_inception):
    extractor = load_extractor(f"inception:{scripted_inception}")
    sha256 = hashlib.sha256(scripted_inception.read_bytes()).hexdigest()
    assert (extractor.published, extractor.sha256) == (False, sha256)
    naming = Naming(256, 30_000)
    assert naming("fd", extractor) == f"fd_inception-{sha256[:8]}_256_30k"
    assert naming("patch64-fd", extractor, 500) == f"patch64-fd_inception-{sha256[:8]}_256_500"
    for name in ("fid", "patch64-fid", "fid-infinity"):
        with pytest.raises(ValueError, match="published weights"):
            metric_name(name, extractor="inception", resolution=256, count=30_000, sha256=sha256)
    extractor.sha256, extractor.name, extractor.published = sorted(PUBLISHED_INCEPTION)[0], "inception", True
    assert naming("fd", extractor) == "fid_inception_256_30k"
    assert naming("patch64-fd", extractor, 500) == "patch64-fid_inception_256_500"
    assert naming("kid", extractor) == "kid_inception_256_30k"


@TORCHSCRIPT_IS_OLD
def test_a_wrong_sum_a_missing_file_and_a_wrong_file_are_one_sentence_each(scripted_inception, tmp_path):
    place = f"inception:{scripted_inception}"
    with pytest.raises(GigaganError, match=r"has sha256 [0-9a-f]{64}, expected 0000"):
        load_extractor(ExtractorPlace(place, sha256="0" * 64))
    with pytest.raises(GigaganError, match="no such file; name one with --weights"):
        load_extractor(f"inception:{tmp_path / 'none.pt'}")
    with pytest.raises(GigaganError, match="no weight file is given"):
        load_extractor("inception")
    damaged = tmp_path / "cut.pt"
    damaged.write_bytes(scripted_inception.read_bytes()[:1000])
    with pytest.raises(GigaganError, match="no TorchScript Inception"):
        load_extractor(f"inception:{damaged}")
    with pytest.raises(GigaganError, match="did you mean 'dinov2-vitl14'"):
        load_extractor("dinov2-vitl-14:x")


# ---- CLIP, the authors' way ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_place(tmp_path_factory) -> str:
    from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
    from gigagan_core.encoders.weights import architecture_config

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "weights.pt"
    torch.save(ClipModel(ClipArchitecture.from_config(architecture_config("ViT-B-32"))).state_dict(), path)
    return f"ViT-B-32:{path}"


@pytest.fixture(scope="module")
def clips(clip_place) -> dict[str, OpenClip]:
    return {
        "exact": load_extractor(clip_place),
        "authors": load_extractor(ExtractorPlace(clip_place, truncate=True)),
        "plain": load_extractor(ExtractorPlace(clip_place, prefix=False)),
    }


def authors_tokens(captions: list[str]) -> torch.Tensor:
    """Their caption tokens, derived from the description: [start] a photo depicts [caption ...], 77 in all."""
    rows = []
    for caption in captions:
        own = [token for token in tokenize([caption], 77)[0].tolist() if token]
        words = [token for token in tokenize(["A photo depicts"], 77)[0].tolist() if token][1:-1]
        row = [own[0], *words, *own[1:]]
        row = row if len(row) <= 77 else [*row[:76], 49407]
        rows.append(row + [0] * (77 - len(row)))
    return torch.tensor(rows)


def test_captions_get_the_authors_prefix_and_end_where_they_are_cut():
    captions = ["a cat", "", " ".join(["word"] * 200), " ".join(["word"] * 72), " ".join(["word"] * 73)]
    found = prefixed_tokens(tokenize(captions, 77), lambda texts: tokenize(texts, 77))
    assert torch.equal(found, authors_tokens(captions))
    assert found.shape == (5, 77)
    assert found[2, -1] == found[3, -1] == found[4, -1] == 49407
    assert (found[0] == tokenize(["A photo depicts a cat"], 77)[0]).all()


def test_the_authors_image_path_lowers_63_pixel_values_by_one():
    lowered = np.arange(256) - TRUNCATED.astype(int)
    assert set(lowered.tolist()) == {0, 1}
    assert lowered.sum() == 63


@pytest.mark.parametrize("protocol", ["exact", "authors"])
def test_images_reach_clip_as_the_authors_code_brings_them(clips, protocol):
    """Centre crop, Lanczos to 256, [-1, 1], back to uint8, CLIP's own preprocessing: in torchvision, as theirs."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (300, 411, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    image = transforms.functional.center_crop(image, min(image.size))
    image = transforms.functional.resize(image, 256, transforms.InterpolationMode.LANCZOS)
    if protocol == "authors":
        signed = transforms.functional.normalize(transforms.functional.to_tensor(image), [0.5] * 3, [0.5] * 3)
        pixels = ((signed + 1.0) * 127.5).clamp(0.0, 255.0).to(torch.uint8)
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    preprocess = transforms.Compose(
        [
            transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    extractor = clips[protocol]
    with torch.inference_mode():
        known = extractor._encoder.model.encode_image(preprocess(image)[None])
    prepared = extractor.prepare(cropped_and_resized(picture, 256))
    found = torch.from_numpy(extractor.features_of([prepared]))
    torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 60), (61, 40), (224, 224), (300, 301)])
def test_clips_resizing_is_torchvisions_for_any_shape(clips, shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = transforms.Compose(
        [transforms.Resize(224, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )(Image.fromarray(picture))
    np.testing.assert_array_equal(clips["exact"].prepare(picture).transpose(1, 2, 0), np.asarray(theirs))


def test_captions_are_prefixed_unless_plain_and_the_name_tells_the_image_path(clips):
    prefixed, plain = (clips[name].caption_features(["a cat"]) for name in ("exact", "plain"))
    assert np.abs(prefixed - plain).max() > 1e-4
    same = clips["plain"].caption_features(["A photo depicts a cat"])
    np.testing.assert_allclose(prefixed, same, rtol=1e-5, atol=1e-6)
    named = [
        Naming(256, 30)(clips[name].clip_score_name, clips[name]) for name in ("exact", "authors", "plain")
    ]
    weights = clips["plain"].sha256[:8]
    assert named == [
        f"clip-score_ViT-B-32-{weights}_256_30",
        f"clip-score_ViT-B-32-{weights}-truncated_256_30",
        f"clip-score-plain_ViT-B-32-{weights}_256_30",
    ]


# ---- DINOv2 ----------------------------------------------------------------------------------------


def test_dinov2_comes_from_a_weight_file_in_timms_network(tmp_path, drawings):
    import timm

    torch.manual_seed(0)
    network = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=518
    ).eval()
    path = tmp_path / "dinov2_vits14.pth"
    torch.save(network.state_dict(), path)
    extractor = load_extractor(f"dinov2-vits14:{path}")
    assert extractor.name == f"dinov2-vits14-{sha256_file(path)[:8]}"
    images = drawings(2, 224, 1)
    found = extractor.features(images)
    assert found.shape == (2, extractor.width) == (2, 384)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    network.set_input_size(img_size=224)
    with torch.inference_mode():
        known = network((images / 255 - mean) / std)
    assert F.cosine_similarity(found, known).min() > 0.9999
    with pytest.raises(GigaganError, match="does not fit"):
        load_extractor(f"dinov2-vitb14:{path}")
