"""Exported programs give what the networks give, at any batch size, with torch alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gigagan_core.errors import GigaganError
from gigagan_core.inference import export
from gigagan_core.inference.export import export_networks

from .conftest import make_generator, make_upsampler

SMALL = {
    "low_size": 16,
    "image_size": 32,
    "bottleneck_size": 8,
    "encoder_blocks": (1,),
    "encoder_attention_depths": (0,),
    "kernels": (2, 1, 1),
    "blocks": (1, 1, 1),
    "attention_depths": (1, 0, 0),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, encoder) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_networks(folder, make_generator(), make_upsampler(**SMALL), encoder, {"base": {"name": "tiny"}})
    return folder


def test_programs_give_what_the_pipeline_gives(exported: Path, pipe, encoder) -> None:
    base, words = (torch.export.load(exported / f"{name}.pt2").module() for name in ("base", "encoder"))
    prompts = ["dog", "red apple", "cat", "old tree"]
    tokens = encoder.tokenize(prompts)
    for truncation in (1.0, 0.5):
        points = pipe.points(prompts, 3, truncation)
        expected = torch.cat([images for _, images in pipe.pixels(points)])
        psi = torch.full((4,), truncation)
        found = base(pipe(prompts, seed=3).z, psi, *words(tokens))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_programs_need_torch_alone(exported: Path) -> None:
    code = (
        "import sys, torch\n"
        "sys.modules['gigagan_core'] = None\n"
        "load = lambda name: torch.export.load(f'{sys.argv[1]}/{name}.pt2').module()\n"
        "words = load('encoder')(torch.tensor([[49406, 1929, 49407, 0, 0, 0, 0, 0]]))\n"
        "low = load('base')(torch.ones(1, 6), torch.ones(1), *words)\n"
        "assert low.shape == (1, 3, 16, 16), low.shape\n"
        "assert load('upsampler')(low, torch.ones(1, 6), torch.ones(1), *words).shape == (1, 3, 32, 32)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(exported)], capture_output=True, text=True, cwd=exported
    )
    assert done.returncode == 0, done.stderr


def test_the_description_names_inputs_and_differences(exported: Path) -> None:
    document = json.loads((exported / "export.json").read_text())
    assert document["models"] == {"base": {"name": "tiny"}}
    assert set(document["programs"]) == {"base", "upsampler", "encoder"}
    base = document["programs"]["base"]
    assert list(base["inputs"]) == ["z", "psi", "features", "eot_index", "mask"]
    assert base["inputs"]["features"] == ["N", 8, 16, "float32"]
    assert all(0 <= each["largest_difference"] < 1e-4 for each in document["programs"].values())


def test_a_model_of_classes_is_exported_with_labels(tmp_path: Path) -> None:
    network = make_generator(conditioning="class", classes=4, cross_attention=False)
    document = export_networks(tmp_path, network)
    assert list(document["programs"]["base"]["inputs"]) == ["z", "psi", "labels"]


def test_a_program_of_one_batch_size_keeps_a_kernel_for_each_sample(tmp_path: Path, encoder) -> None:
    network = make_generator(kernels=(1, 2, 8))
    document = export_networks(tmp_path, network, encoder=encoder, batch_size=1)
    assert document["programs"]["base"]["inputs"]["z"] == [1, 6, "float32"]
    program = torch.export.load(tmp_path / "base.pt2")
    convolutions = [node for node in program.graph.nodes if node.target == torch.ops.aten.conv2d.default]
    kernels = {tuple(node.args[1].meta["val"].shape[:2]) for node in convolutions}
    assert (8, 8) in kernels
    assert (8, 8 * 8) not in kernels, "the bank of 8 kernels must not be one wide convolution"


@pytest.fixture
def unconditional() -> nn.Module:
    return make_generator(conditioning="none", cross_attention=False)


def test_a_program_that_differs_is_refused(tmp_path: Path, monkeypatch, unconditional) -> None:
    load = torch.export.load

    def damaged(path):
        program = load(path)
        with torch.no_grad():
            program.state_dict["network.constant"] += 1
        return program

    monkeypatch.setattr(export.torch.export, "load", damaged)
    with pytest.raises(GigaganError, match=r"base\.pt2 differs by"):
        export_networks(tmp_path, unconditional)
    assert not list(tmp_path.iterdir()), "nobody is left a program that was refused"


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_one_number_of_a_program_that_is_not_finite_is_seen(unconditional, number) -> None:
    network = export.BaseProgram(unconditional)

    def spoilt(z, psi):
        images = network(z, psi)
        images[0, 0, 0, 0] = number
        return images

    arguments = torch.randn(2, 6), torch.ones(2)
    with pytest.raises(GigaganError, match=rf"base\.pt2 differs by {number}"):
        export._difference(Path("base.pt2"), spoilt, network, arguments, any_batch=True)


def write_in_place_of_tracing(monkeypatch: pytest.MonkeyPatch, content: bytes | GigaganError) -> None:
    """Programs of these bytes, or none that passes the check."""

    def written(path: Path, *_rest, **_options) -> float:
        path.write_bytes(content if isinstance(content, bytes) else b"refused")
        if isinstance(content, GigaganError):
            raise content
        return 0.0

    monkeypatch.setattr(export, "_export", written)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_replaces_an_earlier_one_whole_or_not_at_all(
    tmp_path: Path, monkeypatch, unconditional
) -> None:
    write_in_place_of_tracing(monkeypatch, b"first")
    export_networks(tmp_path, unconditional, models={"base": {"name": "first"}})
    first = contents(tmp_path)
    assert set(first) == {"base.pt2", "export.json"}
    write_in_place_of_tracing(monkeypatch, GigaganError("base.pt2 differs by 1"))
    with pytest.raises(GigaganError, match="differs by"):
        export_networks(tmp_path, unconditional, models={"base": {"name": "second"}})
    assert contents(tmp_path) == first
    write_in_place_of_tracing(monkeypatch, b"second")
    export_networks(tmp_path, unconditional, models={"base": {"name": "second"}})
    second = contents(tmp_path)
    assert second["base.pt2"] == b"second"
    assert json.loads(second["export.json"])["models"] == {"base": {"name": "second"}}


def test_no_description_stands_beside_programs_that_are_not_its_own(
    tmp_path: Path, monkeypatch, unconditional
) -> None:
    write_in_place_of_tracing(monkeypatch, b"first")
    export_networks(tmp_path, unconditional)
    moved = []

    def cut_off(self: Path, target: Path) -> None:
        moved.append(target.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        export_networks(tmp_path, unconditional)
    assert moved == ["base.pt2"]
    assert set(contents(tmp_path)) == {"base.pt2"}


def test_a_network_with_one_weight_that_is_not_finite_is_not_exported(tmp_path: Path, unconditional) -> None:
    with torch.no_grad():
        unconditional.constant.view(-1)[0] = torch.nan
    with pytest.raises(GigaganError, match=r"the network of base\.pt2 gives what is not finite"):
        export_networks(tmp_path, unconditional)


def test_a_model_of_captions_is_not_exported_without_its_encoder(tmp_path: Path) -> None:
    with pytest.raises(GigaganError, match="give its encoder"):
        export_networks(tmp_path, make_generator())


# ---- ONNX ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory, encoder) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    document = export_networks(folder, make_generator(), make_upsampler(**SMALL), encoder, format="onnx")
    assert document == json.loads((folder / "export-onnx.json").read_text())
    assert all(0 <= each["largest_difference"] < 1e-4 for each in document["programs"].values())
    return folder


def session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def in_onnxruntime(path: Path, *arguments: torch.Tensor) -> list[torch.Tensor]:
    running = session(path)
    names = [each.name for each in running.get_inputs()]
    given = {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
    return [torch.from_numpy(value) for value in running.run(None, given)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_onnx_gives_what_the_pipeline_gives_at_any_batch_size(onnx_files: Path, pipe, encoder, count) -> None:
    prompts = ["dog", "red apple", "cat", "old tree"][:count]
    words = in_onnxruntime(onnx_files / "encoder.onnx", encoder.tokenize(prompts))
    for truncation in (1.0, 0.5):
        points = pipe.points(prompts, 3, truncation)
        expected = torch.cat([images for _, images in pipe.pixels(points)])
        psi = torch.full((count,), truncation)
        z = pipe(prompts, seed=3).z
        (found,) = in_onnxruntime(onnx_files / "base.onnx", z, psi, *words)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_the_upsampler_in_onnx_gives_what_the_network_gives(onnx_files: Path, encoder) -> None:
    network = make_upsampler(**SMALL)
    generator = torch.Generator().manual_seed(5)
    low = torch.rand(3, 3, 16, 16, generator=generator) * 2 - 1
    z, psi = torch.randn(3, 6, generator=generator), torch.tensor([1.0, 0.6, 0.0])
    words = encoder.text_tokens(encoder.tokenize(["dog", "cat", "red apple"]))
    expected = export.UpsamplerProgram(network)(low, z, psi, *words)
    (found,) = in_onnxruntime(onnx_files / "upsampler.onnx", low, z, psi, *words)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_onnx_of_one_batch_size_keeps_a_kernel_for_each_sample(tmp_path: Path, encoder) -> None:
    import onnx

    network = make_generator(kernels=(1, 2, 8))
    export_networks(tmp_path, network, encoder=encoder, batch_size=2, format="onnx")
    assert session(tmp_path / "base.onnx").get_inputs()[0].shape == [2, 6]
    nodes = onnx.load(tmp_path / "base.onnx").graph.node
    groups = {
        attribute.i
        for node in nodes
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group"
    }
    assert 2 in groups, "the batch is folded into groups"


@pytest.mark.slow
def test_what_onnx_has_no_operator_for_is_named(tmp_path: Path) -> None:
    class Skewed(nn.Module):
        def __init__(self, network) -> None:
            super().__init__()
            self.inner, self.settings = network, network.settings
            self.w_mean, self.encode, self.map = network.w_mean, network.encode, network.map

        def synthesise(self, w, code, noise):
            values = torch.linalg.eigvals(w[:, :4, None] * w[:, None, :4]).real
            return [image + values.sum() for image in self.inner.synthesise(w, code, noise)]

    network = Skewed(make_generator(conditioning="none", cross_attention=False))
    export_networks(tmp_path, network, batch_size=1)
    with pytest.raises(GigaganError, match=r"base\.onnx cannot be written as ONNX \(ONNX has no aten.*eig"):
        export_networks(tmp_path, network, batch_size=1, format="onnx")


def test_onnx_files_are_made_of_networks_on_the_cpu(tmp_path: Path, unconditional) -> None:
    with pytest.raises(GigaganError, match=r"made of networks on the CPU.*--device cpu"):
        export_networks(tmp_path, unconditional.to("meta"), format="onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_one_sentence(tmp_path: Path, monkeypatch) -> None:
    found = export.onnx_format.importlib.util.find_spec
    monkeypatch.setattr(
        export.onnx_format.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("onnxscript", "onnxruntime") else found(name, *rest),
    )
    with pytest.raises(GigaganError, match="not installed: onnxscript, onnxruntime; install them"):
        export_networks(tmp_path, make_generator(), format="onnx")
    assert not list(tmp_path.iterdir())
