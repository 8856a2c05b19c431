"""Doors: our parts in the shapes that other tools call (docs/doors.md). A tool is imported only where its door is used."""
