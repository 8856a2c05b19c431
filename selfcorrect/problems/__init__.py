"""Problem sets: `load_problems` turns a recipe into ready-to-grade `Problem` records.

``load`` holds the recipe and the order of work, ``files`` reads the forms of files, ``rows`` what a row says,
``references`` tells answers that nothing can match, ``known_sets`` lists the sets with a short name.
"""

from selfcorrect.problems.known_sets import HUB_SETS, LICENCES, PUBLISHED_COUNTS, TEST_SETS, HubSet
from selfcorrect.problems.load import (
    DATA_FOLDER,
    MATCHED,
    Loaded,
    ProblemsRecipe,
    load_problems,
    normalised_question,
    problem_file,
)
from selfcorrect.problems.rows import OddRow, read_problem

__all__ = [
    "DATA_FOLDER",
    "HUB_SETS",
    "LICENCES",
    "MATCHED",
    "PUBLISHED_COUNTS",
    "TEST_SETS",
    "HubSet",
    "Loaded",
    "OddRow",
    "ProblemsRecipe",
    "load_problems",
    "normalised_question",
    "problem_file",
    "read_problem",
]
