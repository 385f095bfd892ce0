"""Argo CD's Lua: scripts run in a real Lua 5.1 with exactly what Argo CD gives them, and their answers read as it does.

Argo CD (util/lua) runs gopher-lua, which is Lua 5.1, without its libraries: there are the base functions, `table`,
`require`, and by `require("os")` the functions date and time. Neither `string`, with the methods of texts, nor `math`.
A ConfigMap's scripts run so unless useOpenLibs is set, and so do actions everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lupa import lua51

Document = dict[str, Any]

STATUSES = ("Unknown", "Progressing", "Suspended", "Healthy", "Degraded", "Missing")
PROVIDED = frozenset(
    {
        *("_G", "_VERSION", "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "print"),
        *("rawequal", "rawget", "rawset", "require", "select", "setmetatable", "table", "tonumber", "tostring", "type"),
        *("unpack", "xpcall"),
    }
)
BARE = """
local provided, date, time = ...
debug.setmetatable("", nil)
for name in pairs(_G) do
  if not provided[name] then _G[name] = nil end
end
function require(name)
  assert(name == "os", "module " .. tostring(name) .. " not found")
  return { date = date, time = time }
end
"""


class ScriptError(Exception):
    """The script failed, or answered what Argo CD does not take."""


def health(script: str, document: Document) -> tuple[str, str]:
    """The health that a script finds a resource in: status and message."""
    found = _run(script, document)
    if not isinstance(found, dict) or found.get("status") not in STATUSES:
        raise ScriptError(f"no health: {found!r}")
    message = found.get("message", "")
    if not isinstance(message, str) or set(found) - {"status", "message"}:
        raise ScriptError(f"no health: {found!r}")
    return found["status"], message


def discover(script: str, document: Document) -> dict[str, Document]:
    """The actions that a script offers for a resource: name -> disabled, iconClass and the like."""
    found = _run(script, document)
    if found == []:
        return {}
    if not isinstance(found, dict):
        raise ScriptError(f"no actions: {found!r}")
    return {name: action or {} for name, action in found.items()}


def act(script: str, document: Document, now: str = "2026-01-01T12:00:00Z") -> Document:
    """The resource as an action wants it; `now` is the time in the form the script asks for."""
    found = _run(script, document, now)
    if not isinstance(found, dict):
        raise ScriptError(f"no resource: {found!r}")
    cleaned: Document = _with_empty_mappings(found, document)
    return cleaned


def _run(script: str, document: Document, now: str = "") -> Any:
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False, unpack_returned_tuples=True)
    # Go's format of dates lacks some of C's letters: one that both know is asked for, or nothing is given
    dates = {"!%Y-%m-%dT%XZ": now}
    lua.execute(BARE, lua.table_from(dict.fromkeys(PROVIDED, True)), lambda form: dates[form], lambda: 0)
    lua.globals().obj = _to_lua(lua, document)
    try:
        return _from_lua(lua.execute(script))
    except lua51.LuaError as problem:
        raise ScriptError(str(problem)) from problem


def _to_lua(lua: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return lua.table_from({name: _to_lua(lua, part) for name, part in value.items() if part is not None})
    if isinstance(value, list | tuple):
        return lua.table_from([_to_lua(lua, item) for item in value])
    return value


def _from_lua(value: Any) -> Any:
    if lua51.lua_type(value) != "table":
        return value
    items = dict(value.items())
    if set(items) == set(range(1, len(items) + 1)):
        return [_from_lua(items[place]) for place in sorted(items)]  # an empty table is an empty list
    return {name: _from_lua(part) for name, part in items.items()}


def _with_empty_mappings(new: Any, old: Any) -> Any:
    """Lua has one kind of table: what was an empty mapping, and came back as an empty list, is one again."""
    if isinstance(new, list) and not new and isinstance(old, Mapping):
        return dict(old)
    if isinstance(new, dict) and isinstance(old, Mapping):
        return {name: _with_empty_mappings(part, old.get(name)) for name, part in new.items()}
    if isinstance(new, list) and isinstance(old, list):
        return [_with_empty_mappings(item, old[n] if n < len(old) else None) for n, item in enumerate(new)]
    return new
