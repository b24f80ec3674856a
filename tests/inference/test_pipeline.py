"""Prompts and seeds to pictures: the same picture for the same key, whatever it is made beside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.inference import generate as stages_functions
from gigagan_core.inference import memory
from gigagan_core.inference.generate import generate
from gigagan_core.inference.memory import batch_that_fits, bytes_an_image
from gigagan_core.inference.pipeline import GigaGANPipeline
from gigagan_core.inference.recipes import Point
from gigagan_core.inference.upsampling import TiledUpsampler

from .conftest import make_generator, make_upsampler

PROMPTS = ["red apple", "green pear", "blue bird", "old tree", "dog"]


def pixels(pipe: GigaGANPipeline, points: list[Point], batch_size: int) -> torch.Tensor:
    return torch.cat([images for _, images in pipe.pixels(points, batch_size=batch_size)])


def arrays(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


@pytest.mark.parametrize("truncation", [(1.0, 1.0), (0.6, 0.4)])
def test_the_same_seed_gives_the_same_picture_alone_and_in_a_batch(pipe, truncation) -> None:
    points = pipe.points(PROMPTS, 3, *truncation)
    whole = pixels(pipe, points, batch_size=5)
    assert whole.shape == (5, 3, 16, 16)
    for batch_size in (1, 2, 3):
        torch.testing.assert_close(pixels(pipe, points, batch_size), whole, rtol=0, atol=1e-5)
    alone = pixels(pipe, [points[3]], batch_size=1)
    torch.testing.assert_close(alone[0], whole[3], rtol=0, atol=1e-5)


def test_a_picture_asked_for_by_its_own_seed_does_not_depend_on_its_place(pipe) -> None:
    seeds = [7, 8, 9, 7, 8]
    many = arrays(pipe(PROMPTS, seed=seeds).images)
    backwards = arrays(pipe(PROMPTS[::-1], seed=seeds[::-1], batch_size=2).images)[::-1]
    assert abs(many - backwards).max() <= 1
    single = arrays(pipe("dog", seed=8).images)
    assert abs(many[4] - single[0]).max() <= 1
    assert abs(many[4] - arrays(pipe("dog", seed=9).images)[0]).max() > 1


def test_seed_and_index_bring_one_picture_of_a_series_back(pipe) -> None:
    series = pipe(PROMPTS, seed=5)
    point = series.points[2]
    assert (point.seed, point.index, point.prompt) == (5, 2, "blue bird")
    again = pipe(point.prompt, seed=point.seed, index=point.index)
    assert abs(arrays(series.images)[2] - arrays(again.images)[0]).max() <= 1
    torch.testing.assert_close(again.z[0], series.z[2], rtol=0, atol=0)
    torch.testing.assert_close(again.w[0], series.w[2])


def test_the_stages_function_makes_the_same_pictures(pipe, bundle, encoder) -> None:
    folder = bundle(pipe.network, "base")
    for seed in (0, 4):
        theirs = generate(folder, PROMPTS, encoder, seed=seed, psi=0.7).permute(0, 2, 3, 1).numpy()
        assert abs(arrays(pipe(PROMPTS, seed=seed, truncation=0.7).images) - theirs).max() <= 1


def test_the_stages_functions_open_a_network_where_they_are_told(pipe, bundle, encoder, monkeypatch) -> None:
    places, load = [], stages_functions.load_bundle

    def noted(path, device):
        places.append(device)
        return load(path)

    monkeypatch.setattr(stages_functions, "load_bundle", noted)
    generate(bundle(pipe.network, "base"), ["dog"], encoder, device="a GPU")
    low = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    stages_functions.upsample(bundle(make_upsampler(), "upsampler"), low, ["dog"], encoder, device="a GPU")
    assert places == ["a GPU"] * 2


def test_psi_of_one_changes_nothing_and_zero_leaves_one_picture_a_prompt(pipe) -> None:
    plain, truncated = pipe(PROMPTS[:2]), pipe(PROMPTS[:2], truncation=1.0, prompt_truncation=1.0)
    assert torch.equal(plain.w, truncated.w)
    for name in ("truncation", "prompt_truncation"):
        points = pipe.points(["dog", "dog", "cat"], [1, 2, 1], **{name: 0.0})
        made = pixels(pipe, points, batch_size=2)
        torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-5)
        assert (made[0] - made[2]).abs().max() > 1e-3
    assert torch.equal(pipe("dog", truncation=0.0).w[0], pipe.network.w_mean)


def test_truncation_is_each_pictures_own(pipe) -> None:
    whole = pipe(["dog"] * 3, seed=[1, 1, 1], truncation=[1.0, 0.5, 0.0])
    for row, psi in enumerate((1.0, 0.5, 0.0)):
        assert torch.allclose(whole.w[row], pipe("dog", seed=1, truncation=psi).w[0], atol=1e-6)
    middle = (whole.w[0] + whole.w[2]) / 2
    assert torch.allclose(whole.w[1], middle, atol=1e-6)


def test_the_prompts_own_mean_comes_before_the_mean_of_all(pipe) -> None:
    network, code = pipe.network, pipe.encode(["dog"])
    z = pipe("dog", seed=1).z
    towards_prompt = network.truncate(network.map(z, code), 0.5, network.prompt_mean(code))
    expected = network.truncate(towards_prompt, 0.8)
    assert torch.allclose(pipe("dog", 1, truncation=0.8, prompt_truncation=0.5).w, expected, atol=1e-6)


def test_a_model_of_classes_takes_labels(bundle) -> None:
    pipe = GigaGANPipeline(make_generator(conditioning="class", classes=4, cross_attention=False))
    images = arrays(pipe([0, 3, 0], seed=[1, 1, 1]).images)
    assert abs(images[0] - images[2]).max() <= 1 < abs(images[0] - images[1]).max()
    made = generate(bundle(pipe.network, "base"), [0, 3], None, seed=0).permute(0, 2, 3, 1).numpy()
    assert abs(arrays(pipe([0, 3]).images) - made).max() <= 1
    with pytest.raises(GigaganError, match="labels from 0 to 3"):
        pipe([4])
    with pytest.raises(GigaganError, match=r"takes class labels, and 'dog' was given"):
        pipe("dog")


def test_a_model_without_condition_takes_no_prompt() -> None:
    pipe = GigaGANPipeline(make_generator(conditioning="none", cross_attention=False))
    images = arrays(pipe([None, None]).images)
    assert abs(images[0] - images[1]).max() > 1
    with pytest.raises(GigaganError, match="takes no prompt"):
        pipe("dog")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seed": [1, 2, 3]}, "3 seeds were given for 2 images"),
        ({"truncation": [1.0]}, "1 truncations were given for 2 images"),
        ({"truncation": float("nan")}, "truncation nan cannot be used"),
        ({"prompt_truncation": 9.0}, "prompt_truncation 9.0 cannot be used"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"memory_limit": 1e-9}, "raise the limit"),
        ({"memory_limit": float("nan")}, "memory limit is nan"),
        ({"index": 2**63}, "index 9223372036854775808 cannot be used"),
        ({"upsample": True}, "has no upsampler"),
        ({"noise": 0.1}, "noise level is 0.1, .* these pictures go through none"),
        ({"noise": 0.6, "upsample": True}, "noise level is 0.6; give 0 to 0.5"),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(pipe, arguments, sentence) -> None:
    with pytest.raises(GigaganError, match=sentence):
        pipe(["dog", "cat"], **arguments)


def test_numbers_of_numpy_and_torch_are_numbers(pipe) -> None:
    expected = pipe(["dog"], seed=3, truncation=0.5)
    for kind in (np.int64, torch.tensor):
        made = pipe(["dog"], seed=kind(3), truncation=np.float64(0.5))
        assert made.points == expected.points
    series = pipe(["dog", "cat"], seed=np.int64(3))
    assert [(point.seed, point.index) for point in series.points] == [(3, 0), (3, 1)]
    seeds = pipe(["dog", "cat"], seed=np.array([3, 4]), truncation=torch.tensor([0.5, 1.0]))
    assert [(point.seed, point.index, point.truncation) for point in seeds.points] == [
        (3, 0, 0.5),
        (4, 0, 1.0),
    ]


def test_what_is_not_finite_is_made_again_in_float32(pipe, monkeypatch) -> None:
    synthesise, modes = pipe.network.synthesise, []
    expected = arrays(pipe(["dog"]).images)

    def coarse(*inputs):
        modes.append(torch.is_autocast_enabled("cpu"))
        images = synthesise(*inputs)
        return [image * torch.nan for image in images] if modes[-1] else images

    monkeypatch.setattr(pipe.network, "synthesise", coarse)
    fast = GigaGANPipeline(pipe.network, pipe.encoder, precision="bfloat16")
    assert abs(arrays(fast(["dog"]).images) - expected).max() <= 1
    assert modes == [True, False]


def test_a_model_that_diverged_is_one_sentence_and_no_black_picture(pipe, bundle, encoder) -> None:
    with torch.no_grad():
        pipe.network.constant.fill_(torch.nan)
    with pytest.raises(GigaganError, match="2 of 2 images are not finite"):
        pipe(["dog", "cat"])
    with pytest.raises(GigaganError, match="are not finite: the model's weights are damaged"):
        generate(bundle(pipe.network, "base"), ["dog"], encoder)


def test_no_prompt_gives_no_picture(pipe) -> None:
    made = pipe([])
    assert made.images == []
    assert made.w.shape == (0, 8)


def test_a_long_prompt_is_cut_and_said_so(pipe, capsys) -> None:
    made = pipe(["dog", "one two three four five six seven"])
    assert made.cut == ["one two three four five six seven"]
    warning = capsys.readouterr().err
    assert "the encoder reads 8 tokens" in warning
    assert pipe(["one two three four five six"]).cut == []  # with start and end exactly 8
    assert capsys.readouterr().err == ""


def test_the_batch_size_keeps_to_the_memory_limit(pipe) -> None:
    one = bytes_an_image(pipe.network.settings)
    # At least the two largest maps and the image, all float32.
    assert one > 2 * 8 * 16 * 16 * 4
    assert batch_that_fits(pipe.network, memory_limit=3.5 * one / 2**30) == 3
    assert batch_that_fits(pipe.network, memory_limit=100) == memory.LARGEST_BATCH
    large = make_generator(
        image_size=64, channel_base=512, kernels=(1,) * 5, blocks=(1,) * 5, attention_depths=(0, 1, 0, 0, 0)
    )
    assert bytes_an_image(large.settings) > 2 * 8 * 64 * 64 * 4


def test_memory_that_runs_out_halves_the_batch(pipe, monkeypatch) -> None:
    expected, sizes = arrays(pipe(PROMPTS, batch_size=1).images), []
    synthesise = pipe.network.synthesise

    def small_memory(w, *rest):
        sizes.append(len(w))
        if len(w) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
        return synthesise(w, *rest)

    monkeypatch.setattr(pipe.network, "synthesise", small_memory)
    assert abs(arrays(pipe(PROMPTS, batch_size=5).images) - expected).max() <= 1
    assert sizes == [5, 2, 2, 1]
    monkeypatch.setattr(
        pipe.network, "synthesise", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    )
    with pytest.raises(GigaganError, match="memory ran out on a single image"):
        pipe(PROMPTS)


def test_threads_may_share_a_pipeline(pipe) -> None:
    expected = arrays(pipe(PROMPTS, seed=[0] * 5).images)
    found: dict[int, np.ndarray] = {}

    def ask(row: int) -> None:
        found[row] = arrays(pipe(PROMPTS[row], seed=0, memory_limit=1.0).images)[0]

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(5):
        assert abs(found[row] - expected[row]).max() <= 1


def test_pictures_come_out_enlarged(pipe, encoder) -> None:
    pipe.upsampler = TiledUpsampler(make_upsampler(), encoder)
    made = pipe(PROMPTS[:2], seed=3, upsample=True)
    assert [image.size for image in made.images] == [(128, 128)] * 2
    small = pipe(PROMPTS[1], seed=3, index=1)
    apart = pipe.upsample(small.images, PROMPTS[1], seed=3, index=1)
    assert abs(arrays(apart)[0] - arrays(made.images)[1]).max() <= 1


def test_the_pipelines_precision_is_the_upsamplers_too(pipe, encoder, monkeypatch) -> None:
    pipe.upsampler = TiledUpsampler(make_upsampler(), encoder)
    modes, synthesise = [], pipe.upsampler.network.synthesise

    def noted(*inputs):
        modes.append(torch.is_autocast_enabled("cpu"))
        return synthesise(*inputs)

    monkeypatch.setattr(pipe.upsampler.network, "synthesise", noted)
    for precision in ("float32", "bfloat16"):
        chosen = GigaGANPipeline(pipe.network, encoder, pipe.upsampler, precision=precision)
        chosen("dog", upsample=True)
        chosen.upsample(Image.new("RGB", (16, 16)))
    assert modes == [False, False, True, True]


def test_a_precision_that_cannot_be_is_one_sentence(pipe, tmp_path: Path) -> None:
    for load in (
        lambda: GigaGANPipeline(pipe.network, pipe.encoder, precision="fp16"),
        lambda: GigaGANPipeline.from_pretrained(tmp_path, precision="fp16"),
    ):
        with pytest.raises(GigaganError, match=r"precision 'fp16'; .*float16"):
            load()


def test_a_pipeline_is_loaded_from_bundles(
    pipe: GigaGANPipeline, bundle: Callable[..., Path], encoder_folder: Path
) -> None:
    folder, large = bundle(pipe.network, "base"), bundle(make_upsampler(), "upsampler")
    loaded = GigaGANPipeline.from_pretrained(folder, encoder=encoder_folder, upsampler=large, device="cpu")
    assert abs(arrays(loaded(PROMPTS).images) - arrays(pipe(PROMPTS).images)).max() <= 1
    assert loaded("dog", upsample=True).images[0].size == (128, 128)
    assert set(loaded.model) == {"name", "sha256"}
    with pytest.raises(GigaganError, match="kind base is needed"):
        GigaGANPipeline.from_pretrained(large, encoder=encoder_folder)
    with pytest.raises(GigaganError, match=r"was trained with encoder .* not in store"):
        GigaGANPipeline.from_pretrained(folder)
    with pytest.raises(GigaganError, match="has no base model"):
        GigaGANPipeline.from_pretrained("latest")
