"""Doors: our parts in the shapes that other tools call (docs/doors.md). Each imports its tool, and no other does."""
