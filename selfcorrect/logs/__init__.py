"""Logs of evaluations that others wrote, as one record: a response, its problem, and the score that the log gives it.

`read_log` finds out by itself which tool wrote a file or folder. Nothing here needs torch, and no tool needs to be
installed: lm-evaluation-harness and verifiers write JSON lines, inspect_ai a ZIP of JSON, lighteval parquet, we a
folder.
"""

from selfcorrect.logs.read import TOOLS, read_log
from selfcorrect.logs.record import Log, Response

__all__ = ["TOOLS", "Log", "Response", "read_log"]
