"""The routes, and what an unknown one answers."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .api import Api
from .authorize import PATH as AUTHORIZE_PATH
from .authorize import AuthorizePage
from .bearer import BearerCheck
from .control import Control
from .device import PATH as DEVICE_PATH
from .device import DevicePage
from .envelope import ApiError
from .exchange import CONTROL_PREFIX, ExchangeLayer, exchange_of
from .messages import Messages
from .model_list import ModelList
from .simulator import Simulator
from .token_endpoint import TokenEndpoint


def create_app(simulator: Simulator) -> ASGIApp:
    """The provider as an ASGI application. It needs `exchange.Protocol` under it."""
    page = AuthorizePage(simulator.authorization, simulator.settings.client_id)
    device_page = DevicePage(simulator.device_logins)
    tokens = TokenEndpoint(
        settings=simulator.settings,
        grants=simulator.grants,
        assertions=simulator.assertions,
        device_logins=simulator.device_logins,
        accounts=simulator.directory,
        switches=simulator.switches,
        known_secrets=simulator.known_secrets,
    )
    bearer = BearerCheck(
        grants=simulator.grants,
        switches=simulator.switches,
        clock=simulator.clock,
        known_secrets=simulator.known_secrets,
    )
    api = Api(bearer=bearer, limits=simulator.limits, switches=simulator.switches, clock=simulator.clock)
    messages = Messages(api)
    models = ModelList(api)
    routes = [
        Route(AUTHORIZE_PATH, page.show, methods=["GET"]),
        Route(AUTHORIZE_PATH, page.decide, methods=["POST"]),
        Route(DEVICE_PATH, device_page.show, methods=["GET"]),
        Route(DEVICE_PATH, device_page.decide, methods=["POST"]),
        Route("/v1/oauth/token", tokens.token, methods=["POST"]),
        Route("/v1/oauth/device_authorization", tokens.device_authorization, methods=["POST"]),
        Route("/v1/oauth/revoke", tokens.revoke, methods=["POST"]),
        Route("/v1/messages", messages.create, methods=["POST"]),
        Route("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
        Route("/v1/models", models.index, methods=["GET"]),
        Route("/v1/models/{model_id}", models.one, methods=["GET"]),
        *Control(simulator).routes(),
    ]
    app = Starlette(routes=routes, exception_handlers={ApiError: _api_error, HTTPException: _http_error})
    # a wrong path is a 404, never a redirect to a similar one
    app.router.redirect_slashes = False
    return ExchangeLayer(app, recorder=simulator.recorder, switches=simulator.switches, clock=simulator.clock)


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response(exchange_of(request).record.request_id)


def _http_error(request: Request, error: Exception) -> Response:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith(f"{CONTROL_PREFIX}/"):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return ApiError(error.status_code, error.detail, headers=error.headers).response(
        exchange_of(request).record.request_id
    )
