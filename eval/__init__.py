"""Evaluation: the correction loop scored, and the tables, figures and pages of finished runs."""

from selfcorrect.old_names import redirect

redirect(__name__)
