"""Replies held to docs/openapi.yaml."""

import json
import re
from collections import Counter
from pathlib import Path

import jsonschema
import yaml

DOCUMENT = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml").read_text())
_RESOLVER = jsonschema.RefResolver("", DOCUMENT)

#: (method, path template, status) of every reply that was checked.
seen = Counter()


def operations():
    """(method, path template, operation) of everything described."""
    for template, item in DOCUMENT["paths"].items():
        for method in ("get", "put", "post", "delete"):
            if method in item:
                yield method.upper(), template, item[method]


def _match(path):
    for template in DOCUMENT["paths"]:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return template
    return None


def _resolved(node):
    while "$ref" in node:
        node = _RESOLVER.resolve(node["$ref"])[1]
    return node


def validate(value, schema):
    """Raises jsonschema.ValidationError."""
    jsonschema.Draft202012Validator(schema, resolver=_RESOLVER).validate(value)


def check_event(event):
    validate(event, {"$ref": "#/components/schemas/ExecEvent"})


def _check_headers(described, response):
    for name, header in described.get("headers", {}).items():
        value = response.headers.get(name)
        if value is None:
            assert not header.get("required"), f"the header {name} is missing"
        else:
            validate(value, header["schema"])


def _check_body(described, response, where):
    kind = (response.headers.get("Content-Type") or "").split(";")[0]
    content = described.get("content", {})
    assert kind in content, f"{where}: content type {kind!r} is not described"
    schema = content[kind].get("schema")
    if kind == "application/x-ndjson":
        assert response.body.endswith(b"\n"), f"{where}: the last line has no end"
        for line in response.body.splitlines():
            check_event(json.loads(line))
    elif schema is not None:
        validate(json.loads(response.body), schema)


def check(method, target, response):
    """Asserts that a reply is one that the description allows."""
    template = _match(target.split("?")[0])
    where = f"{method} {target[:80]} -> {response.status}"
    item = DOCUMENT["paths"].get(template, {})
    operation = item.get(method.lower())
    if operation is None:
        # An unknown path or method: only errors, in the common shape.
        assert response.status in (400, 404, 405, 414, 431, 503), where
        described = DOCUMENT["components"]["responses"]["Error"]
    else:
        responses = operation["responses"]
        described = _resolved(responses.get(str(response.status), responses["default"]))
        if str(response.status) not in responses:
            assert response.status >= 400, f"{where}: a success that is not described"
    if response.status == 405:
        assert response.headers.get("Allow"), f"{where}: no Allow header"
    _check_headers(described, response)
    if method != "HEAD":
        _check_body(described, response, where)
    seen[method, template, str(response.status)] += 1
