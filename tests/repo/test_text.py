"""A caption from the web cannot act where it is shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gigagan_core import text

HOSTILE = "<script>alert('x')</script> \x1b[31mred\x1b[0m \x1b]0;title\x07[link=http://a.b]x[/link] | a\nb \u202eevil"


def test_html_keeps_no_tag_and_no_quote() -> None:
    shown = text.for_html(HOSTILE)
    assert "<" not in shown
    assert "'" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("function", [text.plain, text.for_terminal, text.for_markdown, text.for_html])
def test_no_escape_control_or_reordering_character_survives(function) -> None:
    shown = function(HOSTILE)
    assert not [character for character in shown if ord(character) < 32 or character in "\x7f\x9b\u202e"]
    assert "title" not in shown
    assert "red" in shown


def test_the_terminal_shows_markup_as_text() -> None:
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, color_system="truecolor", width=200).print(
        text.for_terminal("[bold red]x[/] [link=http://a.b]y[/link]"), highlight=False
    )
    assert screen.getvalue().strip() == "[bold red]x[/] [link=http://a.b]y[/link]"


def test_markdown_makes_no_link_cell_or_tag() -> None:
    shown = text.for_markdown("[a](http://b.c) | <img src=x> `code` **bold**")
    assert "<" not in shown
    for index, character in enumerate(shown):
        if character in "[]()|`*":
            assert shown[index - 1] == "\\"


def test_a_long_caption_is_cut_with_an_ellipsis() -> None:
    assert text.plain("x" * 100_000, limit=50) == "x" * 49 + "…"


def test_ordinary_captions_are_left_as_they_are() -> None:
    caption = "woman’s hat, 50% off: “été” 😀 日本"
    assert text.plain(caption) == caption


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://ana:p%40ss@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ("https://ana:a@b@mlflow.example/x?y=1@2", "https://mlflow.example/x?y=1@2"),
        ("https://token@mlflow.example", "https://mlflow.example"),
        ("https://mlflow.example/a@b", "https://mlflow.example/a@b"),
        ("sqlite:////home/ana@work/mlflow.db", "sqlite:////home/ana@work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert text.without_password(uri) == shown
