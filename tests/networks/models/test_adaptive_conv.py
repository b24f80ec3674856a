"""Sample-adaptive kernel selection against a slow, literal reading of equations 1 and 2."""

import pytest
import torch
import torch.nn.functional as F

from gigagan_core.models import adaptive_conv
from gigagan_core.models.adaptive_conv import AdaptiveConv2d, kernel_energy, modulated_conv
from gigagan_core.models.layers import upsample

SQRT2 = 2.0**0.5


def slow_reference(layer: AdaptiveConv2d, x, w, noise=None):
    """One sample at a time, kernel by kernel, as the paper writes it."""
    outputs = []
    for n in range(len(x)):
        style = F.linear(w[n], layer.modulation.weight / w.shape[1] ** 0.5, layer.modulation.bias)
        kernel = layer.bank[0]
        if layer.selection is not None:
            scores = F.linear(w[n], layer.selection.weight / w.shape[1] ** 0.5, layer.selection.bias)
            kernel = sum(weight * k for weight, k in zip(scores.softmax(dim=0), layer.bank))
        kernel = kernel / kernel[0].numel() ** 0.5
        kernel = kernel * style[None, :, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        image = x[n : n + 1]
        if layer.up and layer.upsample_first:
            image = upsample(image)
        y = F.conv2d(image, kernel, padding=kernel.shape[-1] // 2)
        if layer.up and not layer.upsample_first:
            y = upsample(y)
        if noise is not None:
            y = y + noise[n : n + 1] * layer.noise_strength
        outputs.append(F.leaky_relu(y + layer.bias[:, None, None], 0.2) * layer.gain)
    return torch.cat(outputs)


def make(kernels, kernel_size=3, **options):
    torch.manual_seed(0)
    layer = AdaptiveConv2d(5, 6, 4, kernels=kernels, kernel_size=kernel_size, noise=True, **options).double()
    with torch.no_grad():
        layer.bias.normal_()
        layer.noise_strength.fill_(0.3)
        layer.modulation.bias.add_(torch.randn(5))
        if layer.selection is not None:
            layer.selection.bias.normal_()
    return layer


@pytest.mark.parametrize("side_is_large", [True, False])
@pytest.mark.parametrize("on_maps", [True, False])
@pytest.mark.parametrize("kernels", [1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"up": True}, {"up": True, "upsample_first": True}, {"kernel_size": 1}]
)
def test_fast_convolution_equals_the_slow_reference_in_value_and_every_gradient(
    kernels, options, on_maps, side_is_large, monkeypatch
):
    monkeypatch.setattr(adaptive_conv, "scales_maps", lambda kernels, pixels: on_maps)
    layer = make(kernels, **options)
    side = 9 if side_is_large else 6  # 81 pixels exceed the 54 weights of an output channel's 6 kernels
    x = torch.randn(3, 5, side, side, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    size = 2 * side if options.get("up") else side
    noise = torch.randn(3, 1, size, size, dtype=torch.float64)
    wanted = slow_reference(layer, x, w, noise)
    found = layer(x, w, noise)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(wanted)
    inputs = [x, w, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(wanted, inputs, direction)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernels", [1, 3])
def test_gradients_of_the_layer_equal_finite_differences(kernels):
    layer = make(kernels)
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, w))


@pytest.mark.parametrize("on_maps", [True, False])
@pytest.mark.parametrize("side", [3, 16])
def test_demodulated_kernels_have_unit_norm(on_maps, side, monkeypatch):
    """A single pixel shows the kernel that it meets, whichever way the factors go."""
    monkeypatch.setattr(adaptive_conv, "scales_maps", lambda kernels, pixels: on_maps)
    bank = torch.randn(3, 6, 5, 3, 3, dtype=torch.float64)
    style, selection = (
        torch.randn(4, 5, dtype=torch.float64),
        torch.randn(4, 3, dtype=torch.float64).softmax(1),
    )
    lengths = torch.zeros(4, 6, dtype=torch.float64)
    for channel in range(5):
        x = torch.zeros(4, 5, side, side, dtype=torch.float64)
        x[:, channel, 1, 1] = 1.0
        lengths += modulated_conv(x, bank, style, selection, torch.zeros(6).double()).square().sum(dim=(2, 3))
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-6, atol=1e-6)


def test_the_gram_matrix_gives_the_energy_of_the_kernels_it_never_builds():
    torch.manual_seed(0)
    bank = torch.randn(4, 6, 5, 3, 3, dtype=torch.float64)
    style = torch.randn(7, 5, dtype=torch.float64)
    selection = torch.randn(7, 4, dtype=torch.float64).softmax(dim=1)
    wanted = torch.einsum("nk,koihw,ni->noihw", selection, bank, style).square().sum(dim=(2, 3, 4))
    torch.testing.assert_close(kernel_energy(bank, style, selection), wanted)


def test_no_tensor_of_batch_times_bank_kernels_is_ever_made():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return result

    layer = AdaptiveConv2d(16, 16, 8, kernels=8)
    x, w = torch.randn(8, 16, 16, 16, requires_grad=True), torch.randn(8, 8)
    with Largest() as largest:
        layer(x, w).sum().backward()
    assert largest.numel < 8 * layer.bank.numel() / 2


def test_selection_weights_choose_among_the_kernels():
    bank = torch.randn(2, 3, 3, 3, 3)
    x, ones = torch.randn(2, 3, 8, 8), torch.ones(2, 3)
    found = modulated_conv(x, bank, ones, torch.eye(2), torch.zeros(3))
    for n in range(2):
        wanted = F.conv2d(x[n : n + 1], bank[n], padding=1)
        wanted = wanted / bank[n].square().sum(dim=(1, 2, 3)).sqrt()[:, None, None]
        torch.testing.assert_close(found[n : n + 1], wanted, rtol=1e-4, atol=1e-4)


def test_noise_is_added_only_where_it_is_given():
    layer = make(1)
    x, w = torch.randn(2, 5, 4, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    assert torch.equal(layer(x, w), layer(x, w))
    assert not torch.equal(layer(x, w), layer(x, w, torch.ones(2, 1, 4, 4, dtype=torch.float64)))
