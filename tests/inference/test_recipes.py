"""Editing: exact at its ends, addressed by layers, saved and replayed."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.inference.animation import save_animation
from gigagan_core.inference.editing import lay_out, slerp
from gigagan_core.inference.pipeline import GigaGANPipeline
from gigagan_core.inference.recipes import (
    Arithmetic,
    Interpolation,
    Point,
    PromptMixing,
    Recipe,
    StyleMixing,
    SwappingMatrix,
    Walk,
    load_recipe,
    save_recipe,
)

from .conftest import make_generator

DOG, CAT = Point(prompt="dog", seed=1), Point(prompt="cat", seed=1)
RECIPES: list[Recipe] = [
    Interpolation(prompts=("dog", "cat", "red apple", "old tree"), rows=3, columns=4, truncation=0.8),
    PromptMixing(first=(DOG,), second=(CAT,), layers=(0, 2, 5)),
    StyleMixing(sources=(DOG, CAT), styles=(Point(prompt="dog", seed=2),), layers=(2, 4), words="style"),
    SwappingMatrix(sources=(DOG,), styles=(CAT, Point(prompt="bird")), cuts=(1, 3)),
    Arithmetic(base=(DOG,), plus=(CAT,), minus=(DOG,), amounts=(0.0, 1.0), layers=(1, 3)),
    Walk(prompts=("dog", "cat"), stops=3, steps=4),
]


def made(pipe: GigaGANPipeline, recipe: Recipe) -> torch.Tensor:
    """float [rows, columns, 3, H, W], before rounding."""
    with torch.no_grad():
        sheet = lay_out(recipe, pipe)
    return pipe.synthesise(sheet.styles).unflatten(0, (sheet.rows, sheet.columns))


def pure(pipe: GigaGANPipeline, *points: Point) -> torch.Tensor:
    return torch.cat([images for _, images in pipe.pixels(points)])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def differ(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() > 1e-3


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.kind)
def test_a_recipe_is_replayed_from_its_file(pipe, tmp_path: Path, recipe: Recipe) -> None:
    save_recipe(tmp_path / "recipe.json", recipe, pipe.model)
    again, model = load_recipe(tmp_path / "recipe.json")
    assert again == recipe
    assert model == pipe.model
    first, second = (pipe.apply(each, batch_size=size) for each, size in ((recipe, 3), (again, 64)))
    assert len(first.images) == first.rows * first.columns
    for one, other in zip(first.images, second.images, strict=True):
        assert abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1


def test_columns_lie_at_the_shares_that_are_given(pipe) -> None:
    even = made(pipe, Interpolation(prompts=("dog", "cat"), rows=1, columns=5))
    chosen = Interpolation(prompts=("dog", "cat"), rows=1, columns=3, shares=(0.75, 0.0, 1.0))
    close(made(pipe, chosen)[0], even[0, [3, 0, 4]])
    alone = Interpolation(prompts=("dog", "cat"), rows=1, columns=1, shares=(0.75,))
    close(made(pipe, alone)[0], even[0, [3]])
    for wrong, reason in (({"columns": 1}, "2 or more"), ({"columns": 2, "shares": (0.5,)}, "one a column")):
        with pytest.raises(ValueError, match=reason):
            Interpolation(prompts=("dog", "cat"), rows=1, **wrong)


def test_the_corners_of_a_grid_are_the_pure_prompts(pipe) -> None:
    prompts = ("dog", "cat", "red apple", "old tree")
    recipe = Interpolation(prompts=prompts, rows=3, columns=4, seed=5, truncation=0.7, prompt_truncation=0.8)
    grid = made(pipe, recipe)
    points = pipe.points(prompts, [5] * 4, 0.7, 0.8)
    close(torch.stack([grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]]), pure(pipe, *points))
    differ(grid[1, 1], grid[0, 0])
    row = made(pipe, Interpolation(prompts=("dog", "cat"), rows=1, columns=3, seed=5))
    close(row[0, [0, 2]], pure(pipe, Point(prompt="dog", seed=5), Point(prompt="cat", seed=5)))


def test_the_ends_of_prompt_mixing_are_the_pure_prompts(pipe) -> None:
    layers = pipe.num_layers
    row = made(pipe, PromptMixing(first=(DOG,), second=(CAT,), layers=(0, 2, layers)))[0]
    close(row[[2, 0]], pure(pipe, DOG, CAT))
    differ(row[1], row[0])
    differ(row[1], row[2])


def test_a_crossover_leaves_the_coarse_layers_as_they_were(pipe) -> None:
    network = pipe.network
    coarse = network.stages[0].num_layers + network.stages[1].num_layers
    with torch.no_grad():
        sheet = lay_out(PromptMixing(first=(DOG,), second=(CAT,), layers=(coarse, pipe.num_layers)), pipe)
        pyramid = network.synthesise(sheet.styles.w, sheet.styles.code)
    close(pyramid[1][0], pyramid[1][1])  # 8 px: below the crossover
    differ(pyramid[0][0], pyramid[0][1])


def test_style_mixing_takes_the_layers_it_names_and_no_others(pipe) -> None:
    other = Point(prompt="dog", seed=2)
    whole = made(pipe, StyleMixing(sources=(DOG,), styles=(other,), layers=(0, pipe.num_layers)))
    close(whole[0], pure(pipe, other))
    with torch.no_grad():
        w = lay_out(StyleMixing(sources=(DOG,), styles=(other,), layers=(1, 3)), pipe).styles.w[0]
    own, style = pipe.styles([DOG]).w[0], pipe.styles([other]).w[0]
    for layer in range(pipe.num_layers):
        assert torch.equal(w[layer], style if layer in (1, 2) else own)
    words = [
        made(pipe, StyleMixing(sources=(DOG,), styles=(CAT,), layers=(0, pipe.num_layers), words=whose))
        for whose in ("source", "style")
    ]
    close(words[1][0], pure(pipe, CAT))
    differ(words[0], words[1])


def test_a_swapping_matrix_is_style_mixing_range_by_range(pipe) -> None:
    styles = (CAT, Point(prompt="bird"))
    matrix = made(pipe, SwappingMatrix(sources=(DOG, CAT), styles=styles, cuts=(1, 3)))
    assert matrix.shape[:2] == (6, 2)
    for place, layers in enumerate([(0, 1), (1, 3), (3, pipe.num_layers)]):
        close(
            matrix[2 * place : 2 * place + 2],
            made(pipe, StyleMixing(sources=(DOG, CAT), styles=styles, layers=layers)),
        )


def test_arithmetic_adds_directions_of_w(pipe) -> None:
    other = Point(prompt="dog", seed=2)
    row = made(pipe, Arithmetic(base=(DOG,), plus=(other,), minus=(DOG,), amounts=(0.0, 1.0, -1.0)))[0]
    close(row[:2], pure(pipe, DOG, other))  # dog + (other dog - dog) is the other dog
    differ(row[2], row[0])
    with torch.no_grad():
        w = lay_out(
            Arithmetic(base=(DOG,), plus=(other,), minus=(CAT,), amounts=(0.5,), layers=(2, 3)), pipe
        ).styles.w[0]
    own, plus, minus = pipe.styles([DOG, other, CAT]).w
    for layer in range(pipe.num_layers):
        expected = own + 0.5 * (plus - minus) if layer == 2 else own
        torch.testing.assert_close(w[layer], expected)


def test_a_walk_passes_through_its_stops_and_closes(pipe) -> None:
    walk = made(pipe, Walk(prompts=("dog", "cat"), seed=3, stops=3, steps=4))[0]
    assert len(walk) == 12
    stops = [Point(prompt=name, seed=3, index=i) for i, name in enumerate(("dog", "cat", "dog"))]
    close(walk[::4], pure(pipe, *stops))
    hops = (walk - walk.roll(-1, dims=0)).abs().amax(dim=(1, 2, 3))
    far = (walk[0] - walk[4]).abs().max()
    assert hops[-1] < far, "the last frame leads to the first"
    open_ended = made(pipe, Walk(prompts=("dog",), seed=3, stops=2, steps=4, closed=False))[0]
    assert len(open_ended) == 5
    close(open_ended[-1:], pure(pipe, Point(prompt="dog", seed=3, index=1)))


def test_great_circles_keep_the_length_of_latents() -> None:
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.equal(slerp(first, second, 0.0), first)
    assert torch.equal(slerp(first, second, 1.0), second)
    assert slerp(first, second, 0.5).norm() == pytest.approx(1)
    assert slerp(first, -first, 0.25).isfinite().all()


def test_models_of_classes_and_without_condition_are_edited_too() -> None:
    classes = GigaGANPipeline(make_generator(conditioning="class", classes=4, cross_attention=False))
    row = made(classes, Interpolation(prompts=(0, 3), rows=1, columns=3))
    close(row[0, [0, 2]], pure(classes, Point(prompt=0), Point(prompt=3)))
    nothing = GigaGANPipeline(make_generator(conditioning="none", cross_attention=False))
    points = Point(seed=1), Point(seed=2)
    whole = StyleMixing(sources=points[:1], styles=points[1:], layers=(0, nothing.num_layers))
    close(made(nothing, whole)[0], pure(nothing, points[1]))
    assert len(nothing.apply(Walk(prompts=(None,), stops=2, steps=2)).images) == 4
    with pytest.raises(GigaganError, match="takes no prompt, so there is none to mix"):
        nothing.apply(PromptMixing(first=points[:1], second=points[1:], layers=(1,)))


@pytest.mark.parametrize(
    "recipe",
    [
        PromptMixing(first=(DOG,), second=(CAT,), layers=(9,)),
        StyleMixing(sources=(DOG,), styles=(CAT,), layers=(0, 9)),
        SwappingMatrix(sources=(DOG,), styles=(CAT,), cuts=(9,)),
        Arithmetic(base=(DOG,), plus=(CAT,), minus=(DOG,), layers=(9, 10)),
    ],
    ids=lambda recipe: recipe.kind,
)
def test_an_unknown_layer_is_one_sentence(pipe, recipe: Recipe) -> None:
    with pytest.raises(GigaganError, match=r"has no layer (9|10); its layers are cut at 0 \(coarse\) to 5"):
        pipe.apply(recipe)


def test_layers_that_hold_none_are_one_sentence(pipe) -> None:
    with pytest.raises(GigaganError, match="layers 3 to 3 hold none"):
        pipe.apply(StyleMixing(sources=(DOG,), styles=(CAT,), layers=(3, 3)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "no document of schema 1"),
        ("[" * 100_000, "recursion depth"),
        ('{"schema": 1}', "'recipe'"),
        ('{"schema": 1, "recipe": {"kind": "collage"}}', "collage"),
        ('{"schema": 1, "recipe": {"kind": "interpolation", "prompts": ["a", "b", "c"]}}', "must be 2 or 4"),
        ('{"schema": 1, "recipe": {"kind": "walk", "prompts": ["a"], "speed": 2}}', "speed"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(GigaganError, match=r"recipe\.json cannot be used") as caught:
        load_recipe(tmp_path / "recipe.json")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_file_says_its_kind_and_is_plain_json(tmp_path: Path) -> None:
    save_recipe(tmp_path / "recipe.json", RECIPES[1])
    document = json.loads((tmp_path / "recipe.json").read_text())
    assert document["recipe"]["kind"] == "prompt-mixing"
    assert document["recipe"]["layers"] == [0, 2, 5]
    with pytest.raises(GigaganError, match="cannot be written"):
        save_recipe(tmp_path / "missing" / "recipe.json", RECIPES[1])


def test_a_grid_shows_rows_and_columns(pipe) -> None:
    edited = pipe.apply(PromptMixing(first=(DOG, CAT), second=(CAT, DOG), layers=(1, 2, 3)))
    assert (edited.rows, edited.columns) == (2, 3)
    grid = edited.grid(margin=2)
    assert grid.size == (3 * 18 - 2, 2 * 18 - 2)
    cell = grid.crop((36, 18, 52, 34))
    assert np.array_equal(np.asarray(cell), np.asarray(edited.images[5]))


# ---- animations -------------------------------------------------------------------------------------


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (40 * i, 0, 255 - 40 * i)) for i in range(6)]


def test_a_gif_holds_every_frame_and_its_time(tmp_path: Path) -> None:
    save_animation(tmp_path / "walk.gif", frames(), frames_per_second=10)
    with Image.open(tmp_path / "walk.gif") as image:
        assert image.n_frames == 6
        assert image.info["duration"] == 100
        assert image.info["loop"] == 0


def test_an_mp4_holds_every_frame(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    save_animation(tmp_path / "walk.mp4", frames(), frames_per_second=10)
    video = cv2.VideoCapture(str(tmp_path / "walk.mp4"))
    found = []
    while (read := video.read())[0]:
        found.append(read[1][..., ::-1])
    assert len(found) == 6
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    assert abs(found[5].mean(axis=(0, 1)) - (200, 0, 55)).max() < 12  # red first, as Pillow has it


@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_an_animation_that_was_cut_off_is_not_there(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("cv2")

    def cut() -> Iterator[Image.Image]:
        yield from frames()
        raise KeyboardInterrupt

    class Frames(list):
        def __iter__(self):
            return cut()

    with pytest.raises(KeyboardInterrupt):
        save_animation(tmp_path / f"walk.{ending}", Frames(frames()))
    assert list(tmp_path.iterdir()) == []


def test_an_animation_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GigaganError, match=r"the ending '\.avi' is not known"):
        save_animation(tmp_path / "walk.avi", frames())
    for name in ("walk.gif", "walk.mp4"):
        with pytest.raises(GigaganError, match="cannot be written"):
            save_animation(tmp_path / "missing" / name, frames())
    with pytest.raises(GigaganError, match="has no frame"):
        save_animation(tmp_path / "walk.gif", [])


@pytest.mark.parametrize("ending", ["gif", "mp4"])
def test_an_animation_that_the_disk_does_not_hold_is_not_there(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("cv2")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(GigaganError, match=rf"walk\.{ending} cannot be written") as said:
            save_animation(tmp_path / f"walk.{ending}", frames())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "partial" not in str(said.value)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_the_disk_does_not_hold_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    save_recipe(path, Arithmetic(base=(DOG,), plus=(CAT,), minus=(DOG,)))
    written = path.read_text()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(GigaganError, match=r"recipe\.json cannot be written"):
            save_recipe(path, Arithmetic(base=(DOG, CAT), plus=(CAT,), minus=(DOG,)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == written
    assert list(tmp_path.iterdir()) == [path]
