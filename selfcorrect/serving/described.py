"""`described`: the server's OpenAPI document, at ``/v1/openapi.json``; what tests fuzz it by. Called by `app`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from selfcorrect.serving import chat_wire, responses_wire
from selfcorrect.serving.asking import ANY, FIRST

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}


def _parts(*kinds: str) -> dict[str, Any]:
    """Return the schema of a message's parts."""
    part = {"type": {"enum": list(kinds)}, "text": {"type": "string"}}
    return {"type": "array", "items": {"type": "object", "required": ["type", "text"], "properties": part}}


INPUT_ITEM = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "type": {"enum": ["message"]},
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, _parts("input_text", "output_text", "text")]},
    },
}
ANSWERS: dict[str, Any] = {
    "/metrics": {"text/plain": {"schema": {"type": "string"}}},
    "/v1/chat/completions": {"application/json": {}, "text/event-stream": {}},
    "/v1/responses": {"application/json": {}, "text/event-stream": {}},
}


def described(api: FastAPI, name: str) -> dict[str, Any]:
    """Return the document: FastAPI's, with the two names of the model, both forms of an answer, and our errors."""
    if api.openapi_schema:
        return api.openapi_schema
    found = get_openapi(title=api.title, version=api.version, routes=api.routes)
    schemas = found["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = ERROR
    for request, neutral in (("ChatRequest", chat_wire.NEUTRAL), ("ResponseRequest", responses_wire.NEUTRAL)):
        fields = schemas[request]["properties"]
        fields["model"]["enum"] = [name, name + FIRST]
        fields |= {field: {} if values is ANY else {"enum": list(values)} for field, values in neutral.items()}
        schemas[request]["additionalProperties"] = False
    schemas["ChatMessage"]["properties"]["content"] = {"anyOf": [{"type": "string"}, _parts("text"), {"type": "null"}]}
    schemas["TextOptions"]["properties"]["format"] = {"enum": [None, {"type": "text"}]}
    schemas["ResponseRequest"]["properties"]["input"] = {
        "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1, "items": INPUT_ITEM}]
    }
    for path, methods in found["paths"].items():
        for operation in methods.values():
            responses = operation["responses"]
            responses.pop("422", None)
            error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            responses["default"] = {"description": "What is wrong.", "content": error}
            if path in ANSWERS:
                responses["200"]["content"] = ANSWERS[path]
            if path == "/health":
                responses["503"] = responses["200"] | {"description": "It cannot answer now."}
    api.openapi_schema = found
    return found
