"""The learned text encoder: which tokens it reads, and where its two outputs come from."""

import torch

from gigagan_core.models.text import TextEncoder, TextFeatures


def encoder(dtype=torch.float32, depth=2):
    torch.manual_seed(0)
    return TextEncoder(12, 8, depth, head_dim=4).to(dtype)


def test_padding_tokens_never_change_the_output(make_text):
    text, network = make_text(), encoder()
    wanted = network(text)
    for garbage in (1e6, float("nan"), float("inf")):
        features = text.features.masked_fill(~text.mask[..., None], garbage)
        found = network(text._replace(features=features))
        assert torch.equal(found.t_global, wanted.t_global)
        assert torch.equal(found.t_local[found.mask], wanted.t_local[wanted.mask])


def test_a_word_changes_the_output(make_text):
    text, network = make_text(), encoder()
    features = text.features.clone()
    features[2, 1, 0] += 1
    found, wanted = network(text._replace(features=features)), network(text)
    assert not torch.allclose(found.t_global[2], wanted.t_global[2])
    assert torch.equal(found.t_global[:2], wanted.t_global[:2])


def test_the_sentence_is_the_output_at_end_of_text_and_words_are_all_but_it(make_text):
    text = make_text(size=4)
    code = encoder()(text)
    for n, eot in enumerate(text.eot_index.tolist()):
        assert torch.equal(code.t_global[n], code.t_local[n, eot])
        assert code.mask[n].tolist() == [position < eot for position in range(7)]


def test_an_empty_caption_keeps_one_place_to_attend_to():
    text = TextFeatures(
        torch.randn(1, 5, 12), torch.tensor([0]), torch.tensor([[True, False, False, False, False]])
    )
    code = encoder()(text)
    assert code.mask.tolist() == [[True, False, False, False, False]]
    assert torch.isfinite(code.t_local).all()


def test_depth_zero_only_selects_and_has_no_parameters(make_text):
    torch.manual_seed(0)
    network = TextEncoder(12, 12, 0, head_dim=4)
    assert not list(network.parameters())
    assert network(make_text()).t_global.shape == (3, 12)


def test_codes_have_unit_second_moment_whatever_the_scale_of_the_features(make_text):
    text = make_text()
    for scale in (1e-1, 1.0, 1e3):
        code = encoder()(text._replace(features=text.features * scale))
        torch.testing.assert_close(code.t_global.square().mean(dim=1), torch.ones(3), rtol=1e-3, atol=1e-3)


def test_rows_of_features_and_codes_can_be_picked(make_text):
    text = make_text()
    rows = torch.tensor([2, 0])
    network = encoder()
    picked = network(text.index(rows))
    torch.testing.assert_close(picked.t_global, network(text).index(rows).t_global)
