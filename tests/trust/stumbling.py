"""Operator or proxy with functions that, when a file says so, raise an exception which holds all the secrets at hand.

A program: `python -m tests.trust.stumbling operator …` is `oauth-pool-operator …`. The file is named by STUMBLES and holds
a JSON object with true for each of their names.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from tests.test_operator.crash_trials.sabotage import Orders

OF_OPERATOR = ("refresh", "exchange_code", "save_credential", "seal", "observe")
OF_PROXY = ("parse_token", "Attempt", "_caller_of")


def main() -> int:
    program, *arguments = sys.argv[1:]
    orders = Orders(os.environ["STUMBLES"])
    run = _operator(orders) if program == "operator" else _proxy(orders)
    return run(arguments)


def _operator(orders: Orders) -> Callable[[list[str]], int]:
    from oauth_pool_operator import cli
    from oauth_pool_operator.cluster import hpke
    from oauth_pool_operator.controller import Controller
    from oauth_pool_operator.oauth.endpoint import TokenEndpoint
    from oauth_pool_operator.storage.store import Store

    for owner, name in zip((TokenEndpoint, TokenEndpoint, Store, hpke, Controller), OF_OPERATOR, strict=True):
        _let_stumble(orders, owner, name)
    return cli.main


def _proxy(orders: Orders) -> Callable[[list[str]], int]:
    from oauth_pool_proxy import cli
    from oauth_pool_proxy.downstream.identity.reception import Reception
    from oauth_pool_proxy.pool import dispatch, sealed_entry

    for owner, name in zip((sealed_entry, dispatch, Reception), OF_PROXY, strict=True):
        _let_stumble(orders, owner, name)
    return cli.main


def _let_stumble(orders: Orders, owner: Any, name: str) -> None:
    original = getattr(owner, name)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def stumbling_task(*arguments: Any, **keywords: Any) -> Any:
            if orders.get(name):
                _stumble(name, arguments)
            return await original(*arguments, **keywords)

        setattr(owner, name, stumbling_task)
        return

    @functools.wraps(original)
    def stumbling(*arguments: Any, **keywords: Any) -> Any:
        if orders.get(name):
            _stumble(name, arguments)
        return original(*arguments, **keywords)

    setattr(owner, name, stumbling)


def _stumble(name: str, arguments: tuple[Any, ...]) -> NoReturn:
    """As a library may: an error that quotes, with one as its cause that has it among its arguments. A file counts it."""
    with open(f"{os.environ['STUMBLES']}.{name}", "a") as file:
        file.write("x")
    held = [_content(argument) for argument in arguments]
    try:
        raise KeyError(*held)
    except KeyError as error:
        raise ValueError(f"cannot make sense of {held!r}") from error


def _content(value: Any) -> Any:
    """With what a document's own repr does not show."""
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else value


if __name__ == "__main__":
    sys.exit(main())
