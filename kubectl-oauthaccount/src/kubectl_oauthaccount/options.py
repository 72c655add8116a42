"""The options that commands share, named as kubectl names them, and what every command needs before it starts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from kubectl_oauthaccount.errors import PluginError, UsageError
from kubectl_oauthaccount.instants import parse_seconds

if TYPE_CHECKING:
    from kubectl_oauthaccount.account import AccountView
    from kubectl_oauthaccount.cluster import Cluster
    from kubectl_oauthaccount.terminal import Terminal

Function = Callable[..., Any]


@dataclass
class ClusterOptions:
    """Which cluster, and as whom. What nobody gave is None (of groups: empty) and left to the kubeconfig."""

    namespace: str | None = None
    kubeconfig: str | None = None
    context: str | None = None
    cluster: str | None = None
    user: str | None = None
    server: str | None = None
    as_user: str | None = None
    as_groups: Sequence[str] = ()
    request_timeout: float | None = None


class Duration(click.ParamType[float]):
    """Seconds, given as `90s`, `10m`, `1h30m` or a plain number."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value) if isinstance(value, int | float) else parse_seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _ClusterOption(click.Option):
    """One that every command takes, before its name as well as after it."""


def _cluster_options() -> list[click.Parameter]:
    def option(*names: str, what: str, **more: Any) -> _ClusterOption:
        return _ClusterOption([*names], help=what, expose_value=False, callback=_remember, **more)

    file = click.Path(exists=False, dir_okay=False)
    return [
        option("-n", "--namespace", what="the accounts' namespace (default: the context's)"),
        option("--kubeconfig", type=file, what="the kubeconfig (default: KUBECONFIG, ~/.kube/config)"),
        option("--context", shell_complete=_names_in("contexts"), what="the kubeconfig's context to use"),
        option("--cluster", shell_complete=_names_in("clusters"), what="the kubeconfig's cluster to use"),
        option("--user", shell_complete=_names_in("users"), what="the kubeconfig's user to use"),
        option("-s", "--server", metavar="URL", what="the API server's address, instead of the cluster's"),
        option("--as", "as_user", metavar="USER", what="act as somebody else"),
        option(
            "--as-group", "as_groups", metavar="GROUP", multiple=True, what="with --as: of this group; may be repeated"
        ),
        option("--request-timeout", type=Duration(), what="how long one request may take (default 30s; 0: no limit)"),
    ]


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    options = ctx.ensure_object(ClusterOptions)
    if value not in (None, ()):
        setattr(options, param.name or "", value)


def _names_in(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def found(ctx: click.Context, _: click.Parameter, started: str) -> list[CompletionItem]:
        from kubectl_oauthaccount.kubeconfig import names_in

        with suppress(PluginError):
            names = names_in(ctx.ensure_object(ClusterOptions).kubeconfig, kind)
            return [CompletionItem(name) for name in names if name.startswith(started)]
        return []

    return found


class Command(click.Command):
    """A command with examples, which takes the cluster options."""

    def __init__(self, name: str | None, *, examples: str, **more: Any) -> None:
        super().__init__(name, context_settings={"help_option_names": ["-h", "--help"]}, **more)
        self.params += _cluster_options()
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)


class Group(click.Group):
    """Commands in the order given, with examples and the cluster options."""

    def __init__(self, name: str | None, *, commands: Sequence[click.Command], examples: str, **more: Any) -> None:
        super().__init__(name, commands=commands, context_settings={"help_option_names": ["-h", "--help"]}, **more)
        self.params += _cluster_options()
        self.examples = examples

    def list_commands(self, _: click.Context) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        write_options(self, ctx, formatter)

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)


class Plugin(Group):
    """The plugin itself."""

    def __init__(self, *, commands: Sequence[click.Command], examples: str, **more: Any) -> None:
        super().__init__(None, commands=commands, examples=examples, **more)
        of_program = click.version_option(version("kubectl-oauthaccount"), message="%(prog)s %(version)s")
        self.params = [*of_program(click.Command(None)).params, *self.params]

    def invoke(self, ctx: click.Context) -> Any:
        """A reader that has had enough (`… | head`) is no failure, which it would be to click."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return 0

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        formatter.write("\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 timed out, 130 interrupted\n")


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """The command's own options, and then those of all."""
    options = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    for title, is_shared in (("Options", False), ("Cluster", True)):
        records = [one.get_help_record(ctx) for one in options if isinstance(one, _ClusterOption) is is_shared]
        with formatter.section(title):
            formatter.write_dl([record for record in records if record is not None])


def write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    lines = "".join(f"  {line}\n" for line in examples.splitlines())
    formatter.write(f"\nExamples:\n{lines}")


def command(name: str, what: str, examples: str) -> Callable[[Function], click.Command]:
    """A command whose function gets the `ClusterOptions` first; what it returns is the exit code."""

    def decorate(function: Function) -> click.Command:
        text = f"{what[0].upper()}{what[1:]}."
        with_cluster = click.make_pass_decorator(ClusterOptions, ensure=True)(function)
        return click.command(name, cls=Command, help=text, short_help=what, examples=examples)(with_cluster)

    return decorate


output = click.option("-o", "--output", type=click.Choice(["json"]), help="print the result for a program")
pod = click.option("--pod", help="the operator's pod (default: found by its label)")


def timeout(default: str | None, what: str) -> Callable[[Function], Function]:
    return click.option("--timeout", type=Duration(), default=default, show_default=default is not None, help=what)


def name_completion(ctx: click.Context, param: click.Parameter, started: str) -> list[CompletionItem]:
    """Names of accounts in the cluster, each with its status; none of them twice."""
    given = ctx.params.get(param.name or "") or ()
    with suppress(PluginError):
        from kubectl_oauthaccount.kubeconfig import connect

        accounts = connect(ctx.ensure_object(ClusterOptions)).accounts()
        fitting = [one for one in accounts if one.name.startswith(started) and one.name not in given]
        return [CompletionItem(one.name, help=one.status_word) for one in fitting]
    return []


name = click.argument("name", metavar="NAME", shell_complete=name_completion, help="the account")
names = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=name_completion, help="accounts"
)


@dataclass(frozen=True)
class Selection:
    """NAME…, or --all or -l and then perhaps -A; `UsageError` for anything else."""

    names: Sequence[str]
    everything: bool
    selector: str | None
    everywhere: bool

    def __post_init__(self) -> None:
        if sum([bool(self.names), self.everything, self.selector is not None]) != 1:
            raise UsageError("name accounts, or give --all, or -l SELECTOR")
        if self.names and self.everywhere:
            raise UsageError("--all-namespaces goes with --all or -l, not with names")

    def accounts(self, cluster: Cluster) -> list[AccountView]:
        """All are looked up before anything is done: a mistyped name changes nothing."""
        if self.names:
            return [cluster.account(name) for name in dict.fromkeys(self.names)]
        return cluster.accounts(selector=self.selector, everywhere=self.everywhere)


def selection(all_of: str) -> Callable[[Function], Function]:
    """The arguments and options that name accounts, as one `Selection`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def run(
            *given: Any, names: Sequence[str], everything: bool, selector: str | None, everywhere: bool, **more: Any
        ) -> Any:
            return function(*given, Selection(names, everything, selector, everywhere), **more)

        wrapped = click.argument(
            "names", metavar="[NAME...]", nargs=-1, shell_complete=name_completion, help="the accounts"
        )(run)
        wrapped = click.option("--all", "everything", is_flag=True, help=all_of)(wrapped)
        return scope(wrapped)

    return decorate


def scope(function: Function) -> Function:
    """-l and -A, of a command that looks at several accounts."""
    every = click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="the accounts of all namespaces")
    return click.option("-l", "--selector", metavar="LABELS", help="the accounts with these labels, such as tier=gold")(
        every(function)
    )


@contextmanager
def session(options: ClusterOptions) -> Iterator[tuple[Cluster, Terminal]]:
    """The cluster that the options name, and the terminal."""
    # half a second, which --help and completion should not take
    from kubectl_oauthaccount.kubeconfig import connect
    from kubectl_oauthaccount.terminal import Terminal

    cluster = connect(options)
    with cluster.client:
        yield cluster, Terminal()
