"""Which models a request would use: also those of a batch, and however the key is spelled. Pure."""

import msgspec

_UPLOADS = "/v1/files"
"""What is sent there, to exactly this path, is a form with a file, and no model reads it."""

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_string = msgspec.json.Decoder(str)
_MALFORMED = (msgspec.DecodeError, UnicodeError, RecursionError)


def asked_models(path: str, body: bytes) -> list[str] | None:
    """None if that cannot be told: the body is no JSON object, or a model in it is no string."""
    if not body or path == _UPLOADS:
        return []
    models: list[str] = []
    try:
        _add(models, _object.decode(body))
    except _MALFORMED:
        return None
    return models


def _add(models: list[str], members: dict[str, msgspec.Raw]) -> None:
    """Some servers do not tell upper from lower case in keys, so every spelling counts."""
    for key, value in members.items():
        # Of most keys the length is enough to know.
        if len(key) == 5 and key.casefold() == "model":
            models.append(_string.decode(value))
        elif len(key) == 8 and key.casefold() == "requests":  # of a batch
            for request in _objects.decode(value):
                for name, params in request.items():
                    if name.casefold() == "params":
                        _add(models, _object.decode(params))
