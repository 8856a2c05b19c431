"""The problem sets that have a short name: where they live, how large the published test sets are, their licences."""

from __future__ import annotations

from typing import NamedTuple


class HubSet(NamedTuple):
    """Where a short name lives on the hub."""

    hub_id: str
    config: str | None = None


HUB_SETS: dict[str, HubSet] = {
    "gsm8k": HubSet("openai/gsm8k", "main"),
    "math": HubSet("DigitalLearningGmbH/MATH-lighteval"),  # 7,500 to train on and 5,000, as published
    "math500": HubSet("HuggingFaceH4/MATH-500"),
    "minerva_math": HubSet("math-ai/minervamath"),
    "olympiadbench": HubSet("Hothan/OlympiadBench", "OE_TO_maths_en_COMP"),
    "aime24": HubSet("math-ai/aime24"),
    "amc23": HubSet("math-ai/amc23"),
    "numina": HubSet("AI-MO/NuminaMath-CoT"),
    "openmathinstruct2": HubSet("nvidia/OpenMathInstruct-2"),
}


TEST_SETS: dict[str, int] = {
    "gsm8k": 1319,
    "math500": 500,
    "minerva_math": 272,
    "olympiadbench": 675,
    "aime24": 30,
    "amc23": 40,
}
"""The known test sets, which training problems are kept apart from, and how many problems each has as published."""

PUBLISHED_COUNTS = TEST_SETS | {"math": 5000}
"""How many problems a whole test set has: a score on another number is of another set.

MATH's own test set is here alone: most train on the 4,500 of its problems that are not in MATH500.
"""

LICENCES: dict[str, str] = {
    "arithmetic": "Apache-2.0 (synthetic)",
    "gsm8k": "MIT",
    "math": "MIT",
    "math500": "MIT",
    "olympiadbench": "Apache-2.0",
    "numina": "Apache-2.0",
    "openmathinstruct2": "CC-BY-4.0",
}
"""Licences of the problem sets, as their publishers state them; a set that is not here: ask its source."""
