"""A request to the API server in the words its roles and audit log have for it: pure."""

from __future__ import annotations

import re

_PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?/(?P<resource>[^/]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
OTHER = "other"
NO_ANSWER = "none"


def described(method: str, path: str, is_watch: bool = False) -> tuple[str, str, str]:
    """Verb, resource (`jobs`, `pods/log`; `other` for paths beside the resources) and namespace of a request."""
    found = _PATH.fullmatch(path)
    if found is None:
        return method.lower(), OTHER, ""
    resource = f"{found['resource']}/{found['subresource']}" if found["subresource"] else found["resource"]
    reading = "get" if found["name"] else "watch" if is_watch else "list"
    return _VERBS.get(method, reading), resource, found["namespace"] or ""
