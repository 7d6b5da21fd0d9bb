"""Parses, validates and encodes the messages of graphql-transport-ws.

https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from storefront.core.errors import LimitExceeded, RequestError
from storefront.serving.http import lone_surrogates
from storefront.serving.http.graphql_request import BadRequest, GraphQLRequest, parse_request
from storefront.serving.http.request_body import HTTPError, parse_lenient_json

SUBPROTOCOL = "graphql-transport-ws"

MAX_ID_CHARACTERS = 200

# The parts of a subscribe message's payload whose types the protocol names.
_PAYLOAD_TYPES: Mapping[str, type] = {"query": str, "variables": dict, "operationName": str, "extensions": dict}


class MalformedMessageError(Exception):
    """Raised for a message that is invalid or too large: the socket is closed with 4400 and this reason."""


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A valid message from a client. `id` is empty if its type has none; `payload` is None if it has none."""

    type: str
    id: str = ""
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeMessage(ClientMessage):
    """A subscribe message with its operation, or the error that the operation ends with; the socket stays open."""

    operation: GraphQLRequest | RequestError


def parse_message(text: str | None, max_bytes: int, max_values: int) -> ClientMessage:
    """Parse the message in a frame; `text` is None for a binary frame. Raises MalformedMessageError."""
    # No text has more bytes than four per character: only long ones need to be encoded.
    if text is None or len(text) > max_bytes or (4 * len(text) > max_bytes and len(text.encode()) > max_bytes):
        raise MalformedMessageError(f"messages must be text of at most {max_bytes} bytes")
    try:
        content, may_have_lone_surrogates = _parse_object(text, max_values)
    except LimitExceeded as error:
        # Parsed again without the limit, to get the id of the operation. Its values are not checked: they are not used.
        content, _ = _parse_object(text, len(text))
        message = _validate_message(content, may_have_lone_surrogates=False)
        if not isinstance(message, SubscribeMessage):
            raise MalformedMessageError(str(error)) from None
        return replace(message, operation=error)
    return _validate_message(content, may_have_lone_surrogates)


def dump_message(message: Mapping[str, Any]) -> str:
    """Encode a message as JSON. Raises MalformedMessageError if it echoes a payload that is nested too deeply."""
    try:
        return orjson.dumps(message).decode()
    except orjson.JSONEncodeError:
        # It echoes lone surrogates or deep nesting of the client, which orjson does not encode.
        try:
            # JSON has no infinite numbers: like orjson and JavaScript, this encodes null for them.
            return json.dumps(json.loads(json.dumps(message), parse_constant=lambda _: None))
        except RecursionError:
            raise MalformedMessageError("messages must not be nested so deeply") from None


def _parse_object(text: str, max_values: int) -> tuple[dict[str, Any], bool]:
    """The object, and whether it may have lone surrogates or too large numbers. Raises MalformedMessageError, LimitExceeded."""
    content, may_have_lone_surrogates = _parse_json(text, max_values)
    if not isinstance(content, dict):
        raise MalformedMessageError("messages must be JSON objects")
    return content, may_have_lone_surrogates


def _parse_json(text: str, max_values: int) -> tuple[Any, bool]:
    try:
        return parse_lenient_json(text, "the message", max_values)
    except HTTPError:
        raise MalformedMessageError("messages must be JSON, and not nested too deeply") from None


def _validate_message(content: dict[str, Any], may_have_lone_surrogates: bool) -> ClientMessage:
    kind, id_, payload = content.get("type"), content.get("id"), content.get("payload")
    if kind in ("connection_init", "ping", "pong"):
        return ClientMessage(kind, payload=_check_payload(kind, payload))
    if kind not in ("subscribe", "complete"):
        raise MalformedMessageError("unknown message type")
    if not isinstance(id_, str) or not id_:
        raise MalformedMessageError(f"{kind} needs an id, a non-empty string")
    if kind == "complete":
        return ClientMessage(kind, id_)
    return SubscribeMessage(kind, id_, payload, operation=_parse_operation(id_, payload, may_have_lone_surrogates))


def _check_payload(kind: str, payload: Any) -> dict[str, Any] | None:
    if payload is None or isinstance(payload, dict):
        return payload
    raise MalformedMessageError(f"the payload of {kind} must be an object")


def _parse_operation(id_: str, payload: Any, may_have_lone_surrogates: bool) -> GraphQLRequest | RequestError:
    """The operation, or the error that it ends with. Raises MalformedMessageError for a payload that the protocol forbids."""
    try:
        request = parse_request(payload, may_have_lone_surrogates=may_have_lone_surrogates)
        if may_have_lone_surrogates:
            lone_surrogates.check_request({"id": id_})
            lone_surrogates.check_request(payload)
    except BadRequest as error:
        if not _is_well_formed(payload):
            raise MalformedMessageError(str(error)) from None
        return error
    if len(id_) > MAX_ID_CHARACTERS:
        return LimitExceeded("id", MAX_ID_CHARACTERS, len(id_), "The id of an operation is too long", "characters")
    return request


def _is_well_formed(payload: Any) -> bool:
    if not isinstance(payload, dict) or payload.get("query") is None:
        return False
    return all(payload.get(name) is None or isinstance(payload[name], type_) for name, type_ in _PAYLOAD_TYPES.items())
