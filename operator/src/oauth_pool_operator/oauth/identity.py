"""Who logged in, as a provider's answer says it: a claim of the ID token, or a member of the answer itself."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from oauth_pool_operator.oauth.profiles import ClientProfile

LONGEST_SUBJECT = 253  # what spec.expectedSubject can hold

# Where no profile says it: a person before an organization, an address before a number.
_USUAL_MEMBERS = tuple(
    f"{member}.{key}"
    for member in ("account", "organization")
    for key in ("email_address", "email", "uuid", "id", "name")
)
_USUAL_CLAIMS = ("email", "sub")


def subject_of(document: Mapping[str, Any], client: ClientProfile | None) -> str | None:
    """Whom the tokens are for; None where the answer names nobody.

    The ID token's signature is not looked at: it came over TLS from the token endpoint itself (OIDC Core 3.1.3.7, 6).
    """
    claims = _claims(document.get("id_token"), client)
    if client is not None and client.subject_claim is not None:
        places: Iterator[tuple[Mapping[str, Any], str]] = iter(
            ((claims, client.subject_claim), (document, client.subject_claim))
        )
    else:
        places = iter([(document, path) for path in _USUAL_MEMBERS] + [(claims, path) for path in _USUAL_CLAIMS])
    return next((found for source, path in places if (found := _named(source, path)) is not None), None)


def _named(source: Mapping[str, Any], path: str) -> str | None:
    """The text at a path such as `account.email_address`. An address that the provider has not verified names nobody."""
    holder: Any = source
    *outer, name = path.split(".") if path not in source else [path]  # claims may have a URL for a name
    for step in outer:
        holder = holder.get(step) if isinstance(holder, dict) else None
    value = holder.get(name) if isinstance(holder, dict) else None
    if name == "email" and isinstance(holder, dict) and holder.get("email_verified") in (False, "false"):
        return None
    # JSON can hold half of a surrogate pair, which no file can
    return value[:LONGEST_SUBJECT].encode(errors="replace").decode() if isinstance(value, str) and value else None


def _claims(token: Any, client: ClientProfile | None) -> dict[str, Any]:
    """What the ID token says, if it is for this client (OIDC Core 3.1.3.7, 2 and 3); its end does not matter here."""
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3 or client is None:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(claims, dict):
        return {}
    audience = claims.get("aud")
    is_ours = client.client_id in (audience if isinstance(audience, list) else [audience])
    is_theirs = client.issuer is None or claims.get("iss") == client.issuer
    return claims if is_ours and is_theirs else {}
