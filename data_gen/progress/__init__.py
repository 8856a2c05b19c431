"""What a person sees while data are sampled, and before: the live table, and the forecast of ``--dry-run``."""
