"""Processes that may be killed: what is open after exact rules, decided with many digits or by SymPy."""
