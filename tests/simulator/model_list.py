"""`GET /v1/models` and `GET /v1/models/{id}`: a few fixed models, in pages."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .api import Api
from .envelope import ApiError

# made-up names: real ones are retired one day, and then client libraries warn
_MODELS = (
    ("claude-simulated-opus", "Simulated Opus", "2026-03-01T00:00:00Z"),
    ("claude-simulated-sonnet", "Simulated Sonnet", "2026-02-01T00:00:00Z"),
    ("claude-simulated-haiku", "Simulated Haiku", "2026-01-01T00:00:00Z"),
)
MODEL_IDS = tuple(model_id for model_id, _, _ in _MODELS)


class ModelList:
    def __init__(self, api: Api) -> None:
        self._api = api

    async def index(self, request: Request) -> Response:
        """A page: `limit` (1 to 1000, default 20) models after `after_id` or before `before_id`."""
        caller = await self._api.admit(request)
        limit = request.query_params.get("limit", "20")
        if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
            raise ApiError(400, "limit: Input should be from 1 to 1000")
        first, last = 0, len(_MODELS)
        if (after := request.query_params.get("after_id")) is not None:
            first = _position(after, "after_id") + 1
            last = min(last, first + int(limit))
        elif (before := request.query_params.get("before_id")) is not None:
            last = _position(before, "before_id")
            first = max(0, last - int(limit))
        else:
            last = min(last, int(limit))
        page = MODEL_IDS[first:last]
        has_more = first > 0 if "before_id" in request.query_params else last < len(_MODELS)
        document = {
            "data": [_model(model_id) for model_id in page],
            "has_more": has_more,
            "first_id": page[0] if page else None,
            "last_id": page[-1] if page else None,
        }
        return self._api.answer(request, document, caller.switches)

    async def one(self, request: Request) -> Response:
        caller = await self._api.admit(request)
        model_id = request.path_params["model_id"]
        if model_id not in MODEL_IDS:
            raise ApiError(404, f"model: {model_id}")
        return self._api.answer(request, _model(model_id), caller.switches)


def _position(model_id: str, parameter: str) -> int:
    if model_id not in MODEL_IDS:
        raise ApiError(400, f"{parameter}: unknown model {model_id}")
    return MODEL_IDS.index(model_id)


def _model(model_id: str) -> dict[str, Any]:
    name, created = next((name, created) for known, name, created in _MODELS if known == model_id)
    return {
        "type": "model",
        "id": model_id,
        "display_name": name,
        "created_at": created,
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }
