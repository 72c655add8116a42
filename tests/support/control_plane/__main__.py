"""The control plane as a command, for people. `run` is for looking around with kubectl; `build` prepares a machine."""

import argparse
import signal
import sys

from tests.support.control_plane import ControlPlane, ControlPlaneError, binaries


def main() -> int:
    options = _parser().parse_args()
    try:
        if options.command == "build":
            sys.stdout.write(f"{binaries()}\n")
        else:
            run(options.keep)
    except ControlPlaneError as error:
        sys.stderr.write(f"control plane: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    return 0


def run(keep: bool) -> None:
    """Run one until Ctrl-C."""
    with ControlPlane(keep=keep) as control_plane:
        sys.stdout.write(f"export KUBECONFIG={control_plane.kubeconfig}\n")
        sys.stdout.flush()
        sys.stderr.write(
            f"{control_plane.server} is ready; logs and data are in {control_plane.folder}; Ctrl-C ends it\n"
        )
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.stderr.write(f"\nstopping{f'; {control_plane.folder} stays' if keep else ''}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.control_plane",
        description="A real Kubernetes control plane (etcd and kube-apiserver) on this machine.",
        epilog="KUBEBUILDER_ASSETS names a folder with etcd and kube-apiserver to use (and kubectl, else that of PATH). "
        "Without it they are built once, below XDG_CACHE_HOME or ~/.cache.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("build", help="find or build the binaries, and print the folder they are in")
    run = commands.add_parser("run", help="start one, print `export KUBECONFIG=…`, and keep it until Ctrl-C")
    run.add_argument("--keep", action="store_true", help="leave its folder (data, logs, kubeconfig) when it ends")
    return parser


if __name__ == "__main__":
    sys.exit(main())
