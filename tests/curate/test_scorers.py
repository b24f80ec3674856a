"""Every scorer beside a plain computation from the same weight file; and as part of a curate run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from gigagan_core.config.curate import AestheticRule, CurateSettings, ScoreRule, ScoreSettings, UnwantedRule
from gigagan_core.data.pictures import decode
from gigagan_core.data.reader import load_all
from gigagan_core.data.scorers import aesthetic, clip_similarity, image_embedding, nsfw, watermark
from gigagan_core.data.scores import SCORER, VERSION, ShardScores, read_scores, write_scores
from gigagan_core.data.scoring import pictures_of
from gigagan_core.data.shards import read_index
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.stages import curate
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.store.fingerprint import sha256_file

from .conftest import rows_of

Make = Callable[..., Artifact]
SIZE = 8


class FlatClip:
    """Stands for ViT-L/14: its embedding is a fixed projection of the pixels."""

    name, sha256, image_size, embed_dim = "ViT-L-14", "c" * 64, SIZE, 768

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.projection = torch.randn(3 * SIZE * SIZE, self.embed_dim, generator=generator)

    def image_embed(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        assert -1 <= images.min() <= images.max() <= 1
        return images.flatten(1) @ self.projection


class WithText(FlatClip):
    """A caption's embedding is a function of its length."""

    def tokenize(self, captions: list[str]) -> Tensor:
        return torch.tensor([[len(caption)] for caption in captions])

    def text_embed(self, tokens: Tensor) -> Tensor:
        return torch.cos(tokens * torch.arange(float(self.embed_dim)))


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """ARCH:PATH of a file that stands for ViT-L/14's."""
    path = tmp_path / "clip.safetensors"
    path.write_bytes(b"a clip")
    named = f"ViT-L-14-quickgelu:{path}"
    monkeypatch.setattr(
        image_embedding,
        "load_encoder",
        lambda place, device: FlatClip() if place == named else load_encoder(place, device),
    )
    return named


@pytest.fixture
def embeddings(tmp_path: Path) -> str:
    """A folder of embeddings by `FlatClip`, as a head is given it."""
    stored = np.zeros((1, FlatClip.embed_dim), np.float32)
    metadata = {"embedding": {SCORER: "embedding", VERSION: FlatClip.sha256}}
    path = tmp_path / "embed" / "output" / "00000.parquet"
    path.parent.mkdir(parents=True)
    write_scores(ShardScores(["k"], {"embedding": stored}, metadata, [None]), path)
    return str(path.parent)


def embedded(images: Tensor) -> Tensor:
    return image_embedding.ImageEmbedding(FlatClip()).score(images, [""] * len(images))["embedding"]


def random_linear(name: str, inputs: int, outputs: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    return {f"{name}weight": weight, f"{name}bias": torch.randn(outputs, generator=generator)}


def write(path: Path, weights: dict) -> Path:
    torch.save(weights, path)
    return path


def v1_file(folder: Path) -> Path:
    return write(folder / "v1.pth", random_linear("", 768, 1, 1))


def v2_file(folder: Path) -> Path:
    sizes = {"0": (768, 1024), "2": (1024, 128), "4": (128, 64), "6": (64, 16), "7": (16, 1)}
    weights: dict[str, Tensor] = {}
    for number, (inputs, outputs) in sizes.items():
        weights |= random_linear(f"layers.{number}.", inputs, outputs, int(number))
    return write(folder / "v2.pth", weights)


def nsfw_file(folder: Path) -> Path:
    weights = {"norm.mean": torch.full((768,), 0.01), "norm.variance": torch.full((768,), 0.002)}
    for number, sizes in enumerate([(768, 64), (64, 512), (512, 256), (256, 1)], start=1):
        weights |= random_linear(f"linear_{number}.", *sizes, number)
    return write(folder / "nsfw.pth", weights)


def pictures(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def unit_features(images: Tensor) -> np.ndarray:
    features = (images.double().numpy() / 127.5 - 1).reshape(len(images), -1) @ FlatClip().projection.numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def of(weights: dict[str, Tensor], name: str) -> tuple[np.ndarray, np.ndarray]:
    return weights[f"{name}weight"].double().numpy(), weights[f"{name}bias"].double().numpy()


def test_aesthetic_v1_is_one_linear_layer_on_the_unit_embedding(tmp_path: Path, embeddings: str) -> None:
    path = v1_file(tmp_path)
    places = {"embeddings": embeddings, "weights": str(path)}
    scorer = aesthetic.load(ScoreSettings(scorer="aesthetic_v1"), places)
    images = pictures(5, SIZE)
    weight, bias = of(torch.load(path), "")
    scores = scorer.score(embedded(images), [""] * 5)
    assert list(scores) == [f"aesthetic_v1_{sha256_file(path)[:8]}"]
    np.testing.assert_allclose(
        scores[scorer.name], (unit_features(images) @ weight.T + bias)[:, 0], atol=1e-5
    )


def test_aesthetic_v2_is_one_affine_map_of_the_unit_embedding(tmp_path: Path, embeddings: str) -> None:
    path = v2_file(tmp_path)
    places = {"embeddings": embeddings, "weights": str(path)}
    scorer = aesthetic.load(ScoreSettings(scorer="aesthetic_v2"), places)
    images, weights = pictures(5, SIZE), torch.load(path)
    matrix, offset = np.eye(768), np.zeros(768)
    for number in "02467":
        weight, bias = of(weights, f"layers.{number}.")
        matrix, offset = weight @ matrix, weight @ offset + bias
    scores = scorer.score(embedded(images), [""] * 5)
    assert list(scores) == [f"aesthetic_v2_{sha256_file(path)[:8]}"]
    np.testing.assert_allclose(
        scores[scorer.name], (unit_features(images) @ matrix.T + offset)[:, 0], atol=1e-5
    )
    places["weights"] = str(v1_file(tmp_path))
    other = aesthetic.load(ScoreSettings(scorer="aesthetic_v1"), places)
    assert other.version != scorer.version


def test_nsfw_is_a_relu_network_on_the_standardised_unit_embedding(tmp_path: Path, embeddings: str) -> None:
    path = nsfw_file(tmp_path)
    scorer = nsfw.load(ScoreSettings(scorer="nsfw"), {"embeddings": embeddings, "weights": str(path)})
    images, weights = pictures(5, SIZE), torch.load(path)
    x = (unit_features(images) - 0.01) / 0.002**0.5
    for number in range(1, 5):
        weight, bias = of(weights, f"linear_{number}.")
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if number < 4 else 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(scorer.score(embedded(images), [""] * 5)[scorer.name], x[:, 0], atol=1e-5)


def test_watermark_is_efficientnet_b3_with_three_layers_and_index_0_is_the_watermark(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    weights = {
        name: value
        for name, value in timm.create_model("efficientnet_b3", num_classes=2).state_dict().items()
        if not name.startswith("classifier")
    }
    for name, sizes in {"0": (1536, 625), "3": (625, 256), "5": (256, 2)}.items():
        weights |= random_linear(f"classifier.{name}.", *sizes, int(name))
    path = write(tmp_path / "watermark.pt", {"weights": weights, "epoch": 3})  # as it is published
    scorer = watermark.load(ScoreSettings(scorer="watermark"), {"weights": str(path)})
    images = pictures(2, 256)
    backbone = timm.create_model("efficientnet_b3", num_classes=0).eval()
    backbone.load_state_dict({k: v for k, v in weights.items() if not k.startswith("classifier")})
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = (images.numpy().transpose(0, 2, 3, 1) / 255 - mean) / std
    with torch.no_grad():
        x = backbone(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()).double().numpy()
    for name in ("0", "3", "5"):
        weight, bias = of(weights, f"classifier.{name}.")
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if name != "5" else np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    scores = scorer.score(images, ["", ""])[scorer.name]
    np.testing.assert_allclose(scores, x[:, 0], atol=1e-4)
    assert scorer.version == sha256_file(path)


def test_a_file_of_another_head_is_refused(tmp_path: Path, embeddings: str) -> None:
    places = {"embeddings": embeddings, "weights": str(v1_file(tmp_path))}
    with pytest.raises(GigaganError, match="is not aesthetic predictor V2's"):
        aesthetic.load(ScoreSettings(scorer="aesthetic_v2"), places)
    with pytest.raises(GigaganError, match="is not the NSFW detector's"):
        nsfw.load(ScoreSettings(scorer="nsfw"), places)
    with pytest.raises(GigaganError, match="is not the watermark detector's"):
        watermark.load(ScoreSettings(scorer="watermark"), places)
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"no weights")
    with pytest.raises(GigaganError, match=r"garbage.pt is damaged"):
        watermark.load(ScoreSettings(scorer="watermark"), {"weights": str(garbage)})


def test_an_embedding_of_another_width_is_refused(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path, clip: str, scored, monkeypatch
) -> None:
    monkeypatch.setattr(FlatClip, "embed_dim", 512)
    head = {"nsfw": UnwantedRule(weights=str(nsfw_file(tmp_path)))}
    inputs = {"data": shard_set(), "encoder": encoder()}
    with pytest.raises(GigaganError, match="has an embedding of 512, the heads read 768"):
        curate.run(settings(clip, **head), inputs, context)
    assert scored == [], "before a picture is looked at"
    # ... and where the embedding is there already, for another reader
    architecture, _, file = clip.partition(":")
    same = ExternalFile(clip, sha256_file(Path(file)), read_as=architecture)
    monkeypatch.setattr(clip_similarity, "load_encoder", lambda place, device: WithText())
    curate.run(settings(clip), {**inputs, "encoder": same}, context)
    with pytest.raises(GigaganError, match="has an embedding of 512, the heads read 768"):
        curate.run(settings(clip, **head), {**inputs, "encoder": same}, context)


# ---- in a curate run -------------------------------------------------------------------------------


def settings(clip: str, **rules: object) -> CurateSettings:
    return CurateSettings(
        clip_similarity=ScoreRule(), clip_vit_l14=clip, batch_size=4, in_process_shards=8, **rules
    )


def test_each_scorer_has_its_column_its_version_and_its_reason(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path, clip: str
) -> None:
    inputs = {"data": shard_set(), "encoder": encoder()}
    rules = {
        "aesthetic_v1": AestheticRule(weights=str(v1_file(tmp_path)), keep_fraction=0.9),
        "aesthetic_v2": AestheticRule(weights=str(v2_file(tmp_path)), keep_fraction=0.9),
        "nsfw": UnwantedRule(weights=str(nsfw_file(tmp_path))),
    }
    curated = curate.run(settings(clip, **rules), inputs, context)
    counts = curated.manifest["counts"]
    assert set(counts["rejected"]) <= {"aesthetic_v1_too_low", "aesthetic_v2_too_low"}
    assert counts["rejected"]["aesthetic_v1_too_low"] == 2
    columns = curated.notes["columns"]
    sums = {name: sha256_file(Path(rule.weights))[:8] for name, rule in rules.items()}
    assert columns == {
        "clip_similarity": "clip_similarity_test-condition",
        "aesthetic_v1": f"aesthetic_v1_{sums['aesthetic_v1']}",
        "aesthetic_v2": f"aesthetic_v2_{sums['aesthetic_v2']}",
        "nsfw": f"nsfw_clip_l14_{sums['nsfw']}",
    }
    schema = pq.read_schema(read_index(curated)[0].parquet)
    versions = {name: schema.field(name).metadata[b"version"] for name in columns.values()}
    assert len(set(versions.values())) == 4
    assert schema.field(columns["nsfw"]).metadata[b"scorer"].decode() == columns["nsfw"]
    rows = [row for row in rows_of(curated) if row["status"] == "success"]
    assert all(row[columns["aesthetic_v1"]] != row[columns["aesthetic_v2"]] for row in rows)
    # a bound from the other side: what is likely unwanted leaves
    highest = sorted(row[columns["nsfw"]] for row in rows)
    nsfw_rule = UnwantedRule(weights=rules["nsfw"].weights, maximum=highest[14])
    strict = curate.run(settings(clip, nsfw=nsfw_rule), inputs, context)
    left = [row for row in rows_of(strict) if row["rejected_by"] == "nsfw_too_high"]
    assert left
    assert all(row[columns["nsfw"]] > highest[14] for row in left)
    assert strict.summary["nsfw_threshold"] == pytest.approx(highest[14])


def test_one_more_scorer_reruns_no_other_one_and_a_moved_file_none(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path, clip: str, scored: list[int]
) -> None:
    inputs, v1 = {"data": shard_set(), "encoder": encoder()}, v1_file(tmp_path)
    curate.run(settings(clip, aesthetic_v1=AestheticRule(weights=str(v1))), inputs, context)
    calls, made = len(scored), len(context.history)
    moved = v1.rename(tmp_path / "moved.pth")
    rules = {
        "aesthetic_v1": AestheticRule(weights=str(moved)),
        "aesthetic_v2": AestheticRule(weights=str(v2_file(tmp_path))),
    }
    curate.run(settings(clip, **rules), inputs, context)
    assert len(scored) == calls
    assert [(record.label, record.cached) for record in context.history[made:]] == [
        ("curate (embeddings for the heads)", True),
        ("curate (embeddings)", True),
        ("curate (scores)", True),
        ("curate (aesthetic_v1 scores)", True),
        ("curate (aesthetic_v2 scores)", False),
        ("curate", False),
    ]


def heads(folder: Path) -> dict:
    return {
        "aesthetic_v1": AestheticRule(weights=str(v1_file(folder))),
        "aesthetic_v2": AestheticRule(weights=str(v2_file(folder))),
        "nsfw": UnwantedRule(weights=str(nsfw_file(folder))),
    }


def test_a_clip_looks_at_every_picture_once_whatever_reads_its_embedding(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path, clip: str, scored: list[int]
) -> None:
    inputs = {"data": shard_set(), "encoder": encoder()}
    curate.run(settings(clip), inputs, context)
    assert sum(scored) == 20
    rules = heads(tmp_path)
    curate.run(settings(clip, **rules), inputs, context)
    assert sum(scored) == 40, "once by the encoder, once by the heads' CLIP"
    other = write(tmp_path / "other.pth", random_linear("", 768, 1, 99))
    curate.run(
        settings(clip, **{**rules, "aesthetic_v1": AestheticRule(weights=str(other))}), inputs, context
    )
    assert sum(scored) == 40, "another weight file"


def test_where_the_encoder_is_the_heads_clip_it_runs_once_for_both(
    context: RunContext, shard_set: Make, tmp_path: Path, clip: str, scored: list[int], monkeypatch
) -> None:
    monkeypatch.setattr(clip_similarity, "load_encoder", lambda place, device: WithText())
    architecture, _, file = clip.partition(":")
    same = ExternalFile(clip, sha256_file(Path(file)), read_as=architecture)
    data = shard_set()
    curated = curate.run(settings(clip, **heads(tmp_path)), {"data": data, "encoder": same}, context)
    assert sum(scored) == 20
    images, captions, keys = load_all(data, SIZE)
    pictures = torch.from_numpy(unit_features(images))
    expected = torch.cosine_similarity(pictures, WithText().text_embed(WithText().tokenize(captions)))
    found = {row["key"]: row["clip_similarity_ViT-L-14"] for row in rows_of(curated)}
    np.testing.assert_allclose([found[key] for key in keys], expected.numpy(), atol=1e-5)


def test_heads_give_what_they_give_on_the_picture_s_own_embedding(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path, clip: str
) -> None:
    data, corrupt = shard_set(corrupt=("000010007",)), "000010007"
    rules = heads(tmp_path)
    curated = curate.run(settings(clip, **rules), {"data": data, "encoder": encoder()}, context)
    (shard, _), rows = read_index(data), {row["key"]: row for row in rows_of(curated)}
    captions = {key: row["caption"] for key, row in rows.items() if row["status"] == "success"}
    samples = list(pictures_of(shard, captions))
    pixels = torch.from_numpy(np.stack([decode(sample, SIZE) for sample in samples])).permute(0, 3, 1, 2)
    unit = torch.nn.functional.normalize(FlatClip().image_embed(pixels.float() / 127.5 - 1), dim=1)
    networks = {
        "aesthetic_v1": aesthetic.linear_v1(),
        "aesthetic_v2": aesthetic.mlp_v2(),
        "nsfw": nsfw.NsfwHead(),
    }
    for name, network in networks.items():
        weights = torch.load(rules[name].weights)
        network.load_state_dict({key.removeprefix("layers."): value for key, value in weights.items()})
        column = curated.notes["columns"][name]
        with torch.no_grad():
            expected = network(unit).squeeze(1)
        found = torch.tensor([rows[sample.key][column] for sample in samples])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert rows[corrupt][column] is None
    scores = {each.notes.get("column"): each.manifest["counts"] for each in context.store.artifacts("score")}
    assert scores[curated.notes["columns"]["nsfw"]]["rejected"] == {"picture_unreadable": 1}


def test_weights_that_are_not_the_expected_ones_are_refused(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path, clip: str
) -> None:
    inputs, v1 = {"data": shard_set(), "encoder": encoder()}, v1_file(tmp_path)
    right = AestheticRule(weights=str(v1), sha256=sha256_file(v1))
    assert curate.run(settings(clip, aesthetic_v1=right), inputs, context).manifest["counts"]["out"] == 20
    with pytest.raises(
        GigaganError, match=r"aesthetic_v1.weights .* has sha256 .* and aesthetic_v1.sha256 is 00"
    ):
        curate.run(settings(clip, aesthetic_v1=AestheticRule(weights=str(v1), sha256="00")), inputs, context)
    with pytest.raises(GigaganError, match=r"aesthetic_v1.weights .* is not there"):
        curate.run(settings(clip, aesthetic_v1=AestheticRule(weights="nowhere.pth")), inputs, context)
    with pytest.raises(GigaganError, match="clip_vit_l14 ViT-L-14:nowhere is no ARCH:PATH"):
        curate.run(settings("ViT-L-14:nowhere", aesthetic_v1=right), inputs, context)


def test_a_bound_without_a_scorer_is_refused() -> None:
    with pytest.raises(ValueError, match="a bound needs scores; give weights"):
        AestheticRule(minimum=5.0)
    with pytest.raises(ValueError, match="a bound needs scores; give weights"):
        UnwantedRule(maximum=0.5)
    with pytest.raises(ValueError, match="aesthetic_v2 and nsfw read a CLIP embedding; give clip_vit_l14"):
        CurateSettings(aesthetic_v2=AestheticRule(weights="a"), nsfw=UnwantedRule(weights="b"))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 0)])
def test_a_shard_without_a_row_that_counts_has_a_table_of_scores_all_the_same(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """A partition of an appended table may hold duplicates alone."""
    path = tmp_path / "output" / "00000.parquet"
    path.parent.mkdir()
    write_scores(ShardScores([], {"score": np.zeros(shape, np.float32)}, {"score": {}}, []), path)
    read = read_scores(path)
    assert (read.keys, read.missing.total(), len(read.columns["score"])) == ([], 0, 0)
