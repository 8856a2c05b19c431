"""The HTML page of a run: one file with tables, charts and every trajectory."""
