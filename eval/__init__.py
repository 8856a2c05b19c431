"""Evaluation: the correction loop scored, and the tables, figures and pages of finished runs."""
