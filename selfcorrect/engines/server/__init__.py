"""The engine of servers that speak OpenAI's completions: several at once, with faults by name."""
