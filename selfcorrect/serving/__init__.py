"""`selfcorrect serve`: the correction loop behind OpenAI's HTTP interface, and a page to ask it from.

A request goes down this list, and its answer up again: `run` (socket, uvicorn) → `guard` (limits, keys, request ids) →
`app` (the addresses) → `chat_wire`, `responses_wire` (OpenAI's shapes) → `answers` (what is reasoning, what content) →
`sources` (the model, or another server's). `streams` sends, `errors` says what is wrong, `metrics` counts.
"""
