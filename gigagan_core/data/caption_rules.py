"""Rules on a caption by itself: its length, and text that says nothing of the picture."""

from __future__ import annotations

import re

from gigagan_core.config.curate import CaptionRules

_SEARCHED = 2_000
"""Characters that patterns look at: some captions are a whole web page."""


class CaptionCheck:
    """The rules, with their patterns compiled."""

    def __init__(self, rules: CaptionRules) -> None:
        self._rules = rules
        self._patterns = {
            name: re.compile(pattern, re.IGNORECASE) for name, pattern in rules.boilerplate.items()
        }

    def reason(self, caption: str | None) -> str | None:
        """Why a caption leaves, None where it stays. None counts as empty."""
        rules, text = self._rules, (caption or "").strip()
        words = len(text.split())
        if words < rules.min_words:
            return "caption_too_few_words"
        if rules.max_words is not None and words > rules.max_words:
            return "caption_too_many_words"
        if len(text) < rules.min_characters:
            return "caption_too_short"
        if rules.max_characters is not None and len(text) > rules.max_characters:
            return "caption_too_long"
        shown = text[:_SEARCHED]
        found = next((name for name, pattern in self._patterns.items() if pattern.search(shown)), None)
        return f"caption_boilerplate_{found}" if found else None
