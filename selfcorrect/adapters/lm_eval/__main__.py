"""Print the folder that ``lm_eval --include_path`` wants."""

from selfcorrect.adapters import lm_eval
from selfcorrect.printing import show_file

show_file("\n".join(lm_eval.__path__))
