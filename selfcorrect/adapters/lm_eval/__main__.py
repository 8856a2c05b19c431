"""Print the folder that ``lm_eval --include_path`` wants."""

from selfcorrect.adapters import lm_eval

print(*lm_eval.__path__)
