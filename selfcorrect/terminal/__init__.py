"""The chat in a terminal: `session` asks and obeys commands, `display` shows events, `maths` makes answers readable."""
