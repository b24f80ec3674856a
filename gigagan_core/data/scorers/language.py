"""The probability that a caption is in one language, by py3langid: its model is part of the package."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.data.scoring import Scorer
from gigagan_core.errors import GigaganError, nearest

PACKAGE = "py3langid"
# Chosen between the languages that captions of web images are in, as far as they write alike: among all 139
# that the model knows, three English words are as likely Frisian or Pidgin. zxx: no language, such as a number.
RIVALS = (
    *(
        "ar",
        "bg",
        "cs",
        "da",
        "de",
        "el",
        "en",
        "es",
        "fa",
        "fi",
        "fr",
        "he",
        "hi",
        "hr",
        "hu",
        "id",
        "it",
        "ja",
    ),
    *("ko", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sv", "th", "tr", "uk", "vi", "zh", "zxx"),
)


class LanguageScorer:
    """Probability, in [0, 1], that the caption is in `language`; NaN for a caption without a letter.

    Raises GigaganError for a language that the model does not know.
    """

    image_size = None

    def __init__(self, language: str, version: str) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self.name = f"language_{language}_{PACKAGE}"
        self.version = version
        self._language = language
        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        known = self._model.labels
        if language not in known:
            raise GigaganError(f"language.language {language!r} is not known; {nearest(language, known)}")
        self._model.set_languages({*RIVALS, language} & {*known})

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        return {self.name: torch.tensor([self._probability(caption) for caption in captions])}

    def _probability(self, caption: str) -> float:
        if not any(character.isalpha() for character in caption):
            return float("nan")
        return dict(self._model.rank(caption))[self._language]


def library() -> str:
    """Name and version of the package, which decide the scores."""
    try:
        return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise GigaganError(
            f"language.language needs the package {PACKAGE}, which is not here; run make install, or leave it unset"
        ) from None


def load(settings: ScoreSettings, places: Mapping[str, Any]) -> Scorer:
    """Needs no file."""
    return LanguageScorer(settings.language, settings.library)
