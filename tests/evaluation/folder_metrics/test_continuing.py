"""What a killed or disturbed comparison keeps, and what it computes again."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import extraction
from gigagan_core.evaluation import picture_folder as folders
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace

from .conftest import values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_a_killed_evaluation_continues_with_the_shards_it_lacks(compare, sets, judge, tmp_path, monkeypatch):
    undisturbed = values(compare(metrics=("fd", "kid"), work=tmp_path / "other", shard_size=16))
    extractor = loaded(ExtractorPlace(str(judge)))
    seen, features_of = [], extractor.features_of

    def dies_in_the_fourth_shard(prepared):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(len(prepared))
        return features_of(prepared)

    monkeypatch.setattr(extractor, "features_of", dies_in_the_fourth_shard)
    with pytest.raises(KeyboardInterrupt):
        compare(metrics=("fd", "kid"), shard_size=16)
    monkeypatch.setattr(
        extractor, "features_of", lambda prepared: seen.append(len(prepared)) or features_of(prepared)
    )
    assert values(compare(metrics=("fd", "kid"), shard_size=16)) == undisturbed
    assert seen == [16, 16, 8, 16, 16, 8]
    assert values(compare(metrics=("fd", "kid"), shard_size=16)) == undisturbed
    assert len(seen) == 6, "nothing is computed twice"


def test_damaged_features_are_computed_again(compare, tmp_path):
    first = values(compare(metrics=("fd",)))
    kept = next((tmp_path / "work").rglob("features-fake-*.npy"))
    data = bytearray(kept.read_bytes())
    data[-3] ^= 0x40
    kept.write_bytes(data)
    assert values(compare(metrics=("fd",))) == first


@pytest.mark.parametrize("pattern", ["features-fake-*.json", "facts-fake-*.json"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"fake": {"count": 39, "sizes": {"48x48": 39}, "corrupt": [["0005.png", "gone"]], "kept": []}}',
    ],
)
def test_a_damaged_record_is_computed_again(compare, tmp_path, pattern, content):
    first = values(compare(metrics=("fd",)))
    record = next((tmp_path / "work").rglob(pattern))
    whole = record.read_text()
    record.write_text(content)
    assert values(compare(metrics=("fd",))) == first
    assert record.read_text() == whole


@pytest.mark.parametrize("skip", [False, True])
def test_a_file_that_could_not_be_read_once_is_judged_when_it_can(compare, sets, tmp_path, monkeypatch, skip):
    undisturbed = values(compare(metrics=("fd",), work=tmp_path / "other"))
    fake, away = tmp_path / "fake", tmp_path / "away.png"
    shutil.copytree(sets[1], fake)
    listed = folders.list_pictures

    def loses_one(folder, threads):
        found = listed(folder, threads)
        if folder == fake:
            (fake / "0003.png").rename(away)
        return found

    monkeypatch.setattr("gigagan_core.evaluation.folder_metrics.list_pictures", loses_one)
    with pytest.raises(GigaganError, match=r"0003\.png cannot be read \(No such file or directory\)"):
        compare(fake=fake, metrics=("fd",), skip_corrupt=skip)
    monkeypatch.undo()
    away.rename(fake / "0003.png")
    found = compare(fake=fake, metrics=("fd",), skip_corrupt=skip)
    assert values(found) == undisturbed
    assert found.record["sets"]["fake"]["corrupt"] == []


def test_what_is_no_fault_of_a_pictures_is_raised_and_never_its_verdict(sets, monkeypatch):
    picture = folders.list_pictures(sets[0])[0]
    with pytest.raises(GigaganError, match=r"0000\.png changed while it was being judged"):
        folders.decode(replace(picture, sha256="0" * 64), None)

    def without_memory(data):
        raise MemoryError

    monkeypatch.setattr(folders.Image, "open", without_memory)
    with pytest.raises(GigaganError, match=r"memory ran out while .*0000\.png was decoded"):
        folders.decode(picture, None)


def test_a_corrupt_picture_of_kept_features_has_the_name_that_it_has_now(compare, sets, tmp_path):
    for folder, name in (("broken", "0000.png"), ("renamed", "00000.png")):
        fake = tmp_path / folder
        shutil.copytree(sets[1], fake)
        (fake / "0000.png").unlink()
        (fake / name).write_bytes(b"text")
        found = compare(fake=fake, metrics=("fd",), skip_corrupt=True)
        assert found.record["sets"]["fake"]["corrupt"] == [[name, "no image format that Pillow knows"]]


def test_changed_pictures_of_the_same_name_size_and_time_are_not_taken_for_the_old_ones(
    compare, sets, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(sets[1], copy)
    first = values(compare(fake=copy, metrics=("fd",)))
    files = sorted(copy.iterdir())
    stat = files[0].stat()
    files[0].write_bytes((sets[0] / "0007.png").read_bytes())
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert values(compare(fake=copy, metrics=("fd",))) != first


@pytest.mark.slow
def test_ray_gives_the_same_figures_and_the_same_sentences(compare, sets, tmp_path):
    import ray

    plain = values(compare(metrics=("fd", "psnr"), shard_size=16))
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        again = compare(ray=ray, metrics=("fd", "psnr"), shard_size=16, work=tmp_path / "on ray")
        assert values(again) == pytest.approx(plain, rel=1e-5)
        broken = tmp_path / "broken"
        shutil.copytree(sets[1], broken)
        Image.new("RGB", (40, 48)).save(broken / "0020.png")
        with pytest.raises(
            GigaganError, match=r"^paired images differ in size \(\[48, 48\] and \[48, 40\]\)"
        ):
            compare(ray=ray, fake=broken, metrics=("psnr",), work=tmp_path / "broken on ray")
    finally:
        ray.shutdown()


def test_features_of_another_way_to_decode_are_not_taken(compare, sets, judge, monkeypatch):
    extractor, seen = loaded(ExtractorPlace(str(judge))), []
    features_of = extractor.features_of
    monkeypatch.setattr(
        extractor, "features_of", lambda prepared: seen.append(len(prepared)) or features_of(prepared)
    )
    compare(metrics=("fd",))
    compare(metrics=("fd",))
    assert sum(seen) == 80
    monkeypatch.setattr(folders, "DECODING", folders.DECODING + 1)
    compare(metrics=("fd",))
    assert sum(seen) == 160


def test_features_of_other_source_or_other_packages_are_not_taken(compare, judge, monkeypatch):
    extractor, seen = loaded(ExtractorPlace(str(judge))), []
    features_of = extractor.features_of
    monkeypatch.setattr(
        extractor, "features_of", lambda prepared: seen.append(len(prepared)) or features_of(prepared)
    )
    first = values(compare(metrics=("fd",)))
    monkeypatch.setattr(extraction, "makers_digest", lambda *modules: "another Pillow")
    assert values(compare(metrics=("fd",))) == first
    assert sum(seen) == 160


def test_a_node_with_other_weights_at_the_place_keeps_nothing(compare, judge, tmp_path, monkeypatch):
    """The driver knows one encoder; here the node's `loaded` gives another, or the same with another config."""
    other = tmp_path / "other"
    shutil.copytree(judge, other)
    config = json.loads((other / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (other / "open_clip_config.json").write_text(json.dumps(config))
    foreign = loaded(ExtractorPlace(str(other)))
    monkeypatch.setattr(extraction, "loaded", lambda place: foreign)
    with pytest.raises(GigaganError, match=r"judge\d+ on .* is not what this run began with \(its config"):
        compare(metrics=("fd",))
    monkeypatch.setattr(foreign, "sha256", "ab" * 32)
    with pytest.raises(GigaganError, match=r"\(sha256 abababababab, not [0-9a-f]{12}\); give every machine"):
        compare(metrics=("fd",))
    assert not list((tmp_path / "work").rglob("*.npy"))


def test_a_node_with_another_lpips_keeps_nothing(compare, tmp_path, monkeypatch):
    file = tmp_path / "alexnet.pth"
    file.write_bytes(b"never read as a network")
    monkeypatch.setattr("gigagan_core.encoders.perceptual.lpips_sha256", lambda place: "ab" * 32)
    with pytest.raises(GigaganError, match=r"alex:.*alexnet\.pth on .* \(sha256 abababababab, not"):
        compare(metrics=("lpips",), lpips=f"alex:{file}")
