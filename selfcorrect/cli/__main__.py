"""``python -m selfcorrect.cli``: what launchers start."""

from selfcorrect.children import leave_working_folder
from selfcorrect.cli import main

if __name__ == "__main__":
    leave_working_folder()
    main()
