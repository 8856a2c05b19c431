"""Stages 1 and 2: fine-tuning, preference learning and reinforcement learning."""

from selfcorrect.old_names import redirect

redirect(__name__)
