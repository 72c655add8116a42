"""Names in the API that the plugin and the operator agree on: the kind, annotations, and where the operator answers."""

from dataclasses import dataclass

GROUP = "oauthpool.dev"
VERSION = "v1alpha1"
KIND = "OAuthAccount"
PLURAL = "oauthaccounts"

CODE_ANNOTATION = f"{GROUP}/authorization-code"


@dataclass(frozen=True)
class Request:
    """Something that is asked of the operator: an annotation gets a new value, which it repeats in status when it is done."""

    annotation: str
    answer: str


LOGIN = Request(f"{GROUP}/login-requested", "lastHandledLoginRequest")
CLEAR = Request(f"{GROUP}/cooldown-cleared", "lastHandledClearRequest")
REFRESH = Request(f"{GROUP}/refresh-requested", "lastHandledRefreshRequest")
LOGOUT = Request(f"{GROUP}/logout-requested", "lastHandledLogoutRequest")

OPERATOR_SELECTOR = "app.kubernetes.io/name=oauth-pool-operator"
OPERATOR_CONTAINER = "operator"
OPERATOR_PROGRAM = "oauth-pool-operator"

PROXY_SELECTOR = "app.kubernetes.io/name=oauth-pool-proxy"
METRICS_PORT = "metrics"
