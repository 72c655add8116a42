"""What a proxy must know about its own pod. Checked at the start, not by `--check`: the file is not to blame."""

from oauth_pool_proxy.config.settings import Config
from oauth_pool_proxy.errors import ConfigInvalid

_FIELDS = {"POD_NAME": "metadata.name", "POD_UID": "metadata.uid"}


def require_pod(config: Config) -> None:
    """Raise `ConfigInvalid` with the missing manifest lines if tokens are sealed and the proxy does not know its pod."""
    sealed = config.oauth.sealed if config.oauth else None
    if sealed is None:
        return
    known = {"POD_NAME": sealed.pod_name, "POD_UID": sealed.pod_uid}
    if missing := [name for name, value in known.items() if not value]:
        lines = ", ".join(
            f"{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {_FIELDS[name]}}}}}}}" for name in missing
        )
        raise ConfigInvalid(
            f"the environment lacks {' and '.join(missing)}: access tokens are sealed to a proxy under the name of its"
            f' pod. Add to the container\'s env: {lines}; or take access files: [oauth] tokens = "volume"'
        )
