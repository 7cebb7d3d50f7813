"""Translate pydantic's errors for people who write recipes: what is wrong, what is allowed, what may be meant."""

import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from configs.text import shorten

Location = tuple[str | int, ...]


def explain_all(
    model: type[BaseModel], tree: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]
) -> list[tuple[Location, str]]:
    """Return where each error stands in the file, and one sentence about it.

    A value that may be a word or a number, and is neither, has an error for each: they become one sentence.
    """
    found = [(*_explain(model, tree, error), error) for error in errors]
    words = {location for location, _, error in found if error["type"] == "literal_error"}
    numbers = {location: error for location, _, error in found if location in words and _is_about_a_number(error)}
    told = []
    for location, text, error in found:
        if location not in numbers:
            told.append((location, text))
        elif error["type"] == "literal_error":
            told.append((location, f"{text.removesuffix(')')}, or a number: {_message(numbers[location])})"))
    return told


def _is_about_a_number(error: Mapping[str, Any]) -> bool:
    return str(error["type"]).startswith(("int", "float", "greater", "less"))


def _message(error: Mapping[str, Any]) -> str:
    return f"{error['msg'][0].lower()}{error['msg'][1:]}"


def _explain(model: type[BaseModel], tree: Mapping[str, Any], error: Mapping[str, Any]) -> tuple[Location, str]:
    location, fields, refused = _walk(model, tree, error["loc"])
    name = ".".join(map(str, location)) or "the file"
    given, context = error.get("input"), error.get("ctx", {})
    shown = shorten(repr(given), 60, ellipsis="...")
    match error["type"]:
        case "extra_forbidden" if location[-1] in refused:
            return location, f"{name} cannot be set here: {refused[location[-1]]}"
        case "extra_forbidden":
            return location, f"unknown key {location[-1]!r} in {_parent(location)}{_suggest(location[-1], fields)}"
        case "missing":
            return location, f"{name} is missing; it is required"
        case "literal_error":
            allowed = str(context["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
            return location, f"{name} is {given!r}{_suggest(given, allowed)}"
        case "union_tag_invalid":
            allowed = str(context["expected_tags"]).replace("'", "").split(", ")
            key = str(context["discriminator"]).strip("'")
            return (*location, key), f"{name}.{key} is {context['tag']!r}{_suggest(context['tag'], allowed)}"
        case "union_tag_not_found":
            key = str(context["discriminator"]).strip("'")
            return location, f"{name}.{key} is missing; it says which kind this is"
        case "value_error":  # a validator of ours, which has said it all
            return location, f"{name}: {context['error']}"
        case "tuple_type" | "list_type":
            return location, f"{name} is {shown}, but it must be a list"
        case "model_type" | "model_attributes_type" | "dict_type":
            return location, f"{name} is {shown}, but it must be a mapping of keys to values"
        case _:
            return location, f"{name} is {shown}: {_message(error)}"


def _walk(model: Any, tree: Any, loc: Location) -> tuple[Location, list[str], Mapping[Any, str]]:
    """Return `loc` without the tags that pydantic adds for unions and keys, and which keys are allowed beside its last.

    Last come the keys that are refused there, each with the reason.
    """
    annotation, location = model, []
    fields: list[str] = []
    refused: Mapping[Any, str] = {}
    for key in loc:
        members = _members(annotation)
        if (chosen := _tagged(members, key)) is not None and not _has(tree, key):
            annotation = chosen
            continue
        if key == "[key]" or not (_has(tree, key) or _is_model(members[0])):
            continue
        annotation = members[0]
        fields = list(annotation.model_fields) if _is_model(annotation) else []
        refused = getattr(annotation, "refused", {})
        location.append(key)
        annotation = _into(annotation, key)
        tree = tree[key] if _has(tree, key) else None
    return tuple(location), fields, refused


def _members(annotation: Any) -> list[Any]:
    """Return the types that a value may have, without None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for arg in get_args(annotation) if arg is not type(None) for m in _members(arg)]
    return [annotation]


def _tagged(members: list[Any], tag: object) -> Any:
    """Return the member of a union whose kind or stage is `tag`, or None."""
    for member in members:
        for field in member.model_fields.values() if _is_model(member) else ():
            if len(members) > 1 and get_origin(field.annotation) is Literal and tag in get_args(field.annotation):
                return member
    return None


def _into(annotation: Any, key: str | int) -> Any:
    if _is_model(annotation):
        field = annotation.model_fields.get(key)
        return field.annotation if field else None
    arguments = get_args(annotation)
    return (arguments[1] if get_origin(annotation) is dict else arguments[0]) if arguments else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _has(tree: Any, key: str | int) -> bool:
    if isinstance(key, int):
        return isinstance(tree, list) and key < len(tree)
    return isinstance(tree, dict) and key in tree


def _parent(location: Location) -> str:
    return ".".join(map(str, location[:-1])) or "the file"


def _suggest(word: object, allowed: list[str]) -> str:
    close = get_close_matches(str(word), allowed, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{meant} (allowed: {', '.join(allowed)})" if allowed else meant
