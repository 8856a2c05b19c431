"""Run folders and what is in them: recipes, journals, files that are whole or absent, progress."""
