"""``python -m selfcorrect``, and the file that child processes run: the command line of this very installation."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_PLACES = [os.path.abspath(place) for place in sys.path]
sys.path[:] = [
    place for place, full in zip(sys.path, _PLACES, strict=True) if full != _HERE
]  # its types.py is not ours
if os.path.dirname(_HERE) not in _PLACES:
    sys.path.append(os.path.dirname(_HERE))

from selfcorrect.children import leave_working_folder  # noqa: E402
from selfcorrect.cli import main  # noqa: E402

if __name__ == "__main__":
    leave_working_folder()
    main()
