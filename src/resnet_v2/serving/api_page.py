"""What the server says of itself: parts of its OpenAPI schema, and the schema as a page without scripts."""

import html
import json
import re
from typing import Any

TOP = "How many classes to name, of tasks for each; of labels multi every class of 50 % or more is named."
_ENTRY = {
    "type": "object",
    "properties": {"class": {"type": "integer"}, "name": {"type": "string"}, "probability": {"type": "number"}},
}
_ENTRIES = {"type": "array", "items": _ENTRY}
_PREDICTION = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "description": "the file's name in the form, - for a body that is a picture"},
        "top": {**_ENTRIES, "description": "the most probable first"},
        "warning": {"type": "string", "description": "where the picture is so small that the answer means little"},
        "tasks": {"type": "array", "items": _ENTRIES, "description": "in place of top where the network has tasks"},
    },
}
EXAMPLE = [{"image": "cat.jpg", "top": [{"class": 3, "name": "cat", "probability": 0.93}]}]
_PROBLEM = {
    "application/json": {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}},
}
_PROBLEMS = {
    400: "The form holds no picture (text, where curl is given no @), or the picture is empty.",
    408: "The upload took too long.",
    413: "The upload is too large, or has too many pictures.",
    415: "The type of the body is no picture's and no form's.",
    422: "A file is no readable image, claims too many pixels, or `top` is no number.",
    500: "The network or the server has a fault; its log tells more.",
    503: "Too many pictures wait. Retry-After says when to come again.",
    507: "The temporary folder of the server is full.",
}
PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The classes of each picture, in the order given, as `resnet-v2 predict --json` prints them.",
        "content": {"application/json": {"schema": {"type": "array", "items": _PREDICTION}, "example": EXAMPLE}},
    },
    **{status: {"description": text, "content": _PROBLEM} for status, text in _PROBLEMS.items()},
}
_FILE = {"type": "string", "format": "binary"}
PREDICT_BODY = {
    "required": True,
    "description": "Pictures in a form, under any names, or one picture that is the body itself.",
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": {"type": "array", "items": _FILE}}}
        },
        "image/*": {"schema": _FILE},
        "application/octet-stream": {"schema": _FILE},
    },
}
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>resnet-v2 serve</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}
pre{background:#8881;padding:.6rem;overflow:auto}td,th{text-align:left;vertical-align:top;padding-right:1rem}
code{white-space:nowrap}
:root{color-scheme:light dark}</style></head><body>
"""


def html_of(schema: dict[str, Any]) -> str:
    """An OpenAPI schema as a page that loads nothing."""
    info = schema["info"]
    parts = [_HEAD, f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>", f"<p>{_text(info['description'])}</p>"]
    parts.append('<p>The schema is <a href="openapi.json">openapi.json</a>.</p>')
    for path, methods in schema["paths"].items():
        for method, said in methods.items():
            parts += [f"<h2>{method.upper()} {_text(path)}</h2>", f"<p>{_text(said['summary'])}.</p>", *_details(said)]
    return "\n".join([*parts, "</body></html>\n"])


def _details(said: dict[str, Any]) -> list[str]:
    parts = []
    if body := said.get("requestBody"):
        parts += [f"<p>{_text(body['description'])} Types: {_text(', '.join(body['content']))}.</p>"]
    for one in said.get("parameters", ()):
        default = one["schema"].get("default")
        parts.append(f"<p><code>?{_text(one['name'])}={default}</code>: {_text(one['description'])}</p>")
    rows = [
        f"<tr><th>{status}</th><td>{_text(answer['description'])}</td></tr>"
        for status, answer in said["responses"].items()
    ]
    parts.append(f"<table>{''.join(rows)}</table>")
    example = said["responses"]["200"].get("content", {}).get("application/json", {}).get("example")
    if example is not None:
        parts.append(f"<pre>{html.escape(json.dumps(example, indent=1))}</pre>")
    return parts


def _text(text: str) -> str:
    """Plain text as HTML; what stands between backticks is code, on one line."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))
