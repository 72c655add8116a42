"""Finds the models that a request would use, including those of a batch, however the key is spelled. Pure."""

import msgspec

from oauth_pool_proxy.pool.request_body import Members

_UPLOADS = "/v1/files"
"""Requests to exactly this path upload a file as a form. No model reads it."""

_USUAL = frozenset(
    [
        "model",
        "messages",
        "max_tokens",
        "metadata",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tools",
        "tool_choice",
        "top_k",
        "top_p",
        "stop_sequences",
        "service_tier",
        "container",
        "context_management",
        "mcp_servers",
        "output_config",
    ]
)
"""None of these keys is another spelling of `model`, or contains a model."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_string = msgspec.json.Decoder(str)
_MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError)


def asked_models(path: str, members: Members | None) -> list[str] | None:
    """The models. None if they cannot be determined: the body is not a JSON object, or a model in it is not a string."""
    if path == _UPLOADS:
        return []
    if members is None:
        return None
    models: list[str] = []
    try:
        _add(models, members)
    except _MALFORMED:
        return None
    return models


def only_model(members: Members | None) -> msgspec.Raw | None:
    """The model as written, if the body is of the common kind: it names one, and no other key could hold another."""
    return members.get("model") if members is not None and _USUAL.issuperset(members) else None


def _add(models: list[str], members: Members) -> None:
    """Some servers ignore the case of keys, so every spelling counts."""
    for key, value in members.items():
        # For most keys, the length alone rules them out.
        if len(key) == 5 and key.casefold() == "model":
            models.append(_string.decode(value))
        elif len(key) == 8 and key.casefold() == "requests":  # of a batch
            for request in _objects.decode(value):
                for name, params in request.items():
                    if name.casefold() == "params":
                        _add(models, _object.decode(params))
