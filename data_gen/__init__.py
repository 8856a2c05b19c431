"""Stage 1: self-correction data, sampled and kept by rejection."""

from selfcorrect.old_names import redirect

redirect(__name__)
