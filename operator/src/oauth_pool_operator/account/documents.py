"""The documents in the files of the two volumes. No document's `repr` shows a secret."""

import hashlib
from datetime import datetime

import msgspec


def fingerprint(secret: str) -> str:
    """The first 16 hex digits of the SHA-256: enough to tell two tokens apart, useless for anything else."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


class Remark(msgspec.Struct, frozen=True):
    """Something odd about the answer that a credential came from: a reason, and a message for a person."""

    reason: str
    message: str


class Credential(msgspec.Struct, frozen=True):
    """What the operator holds for one account. If it is lost, only a new login replaces it."""

    generation: int
    access_token: str
    expires: datetime
    obtained: datetime
    refresh_token: str | None = None
    previous_refresh_token: str | None = None
    subject: str | None = None
    # SHA-256 of the code that the grant came from: it must not be sent again (RFC 6749 4.1.2)
    code_digest: str | None = None
    # fingerprint of the spec.workloadIdentity that the token was exchanged for: if that changes, the token is not the account's
    workload: str | None = None
    # why the grant is dead (GrantRevoked, RefreshOutcomeUnknown, LoggedOut), for as long as no new login replaces it
    dead: str | None = None
    remarks: tuple[Remark, ...] = ()
    # refresh tokens of grants that are no longer needed, until they are revoked
    to_revoke: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Credential generation {self.generation}>"


class Journal(msgspec.Struct, frozen=True):
    """A refresh that has begun; while the journal exists, its outcome is unknown."""

    started: datetime
    generation: int
    refresh_token_fingerprint: str

    @classmethod
    def of(cls, credential: Credential, now: datetime) -> "Journal":
        """A refresh with the credential's refresh token."""
        assert credential.refresh_token is not None
        return cls(now, credential.generation, fingerprint(credential.refresh_token))

    def is_about(self, credential: Credential | None) -> bool:
        """The refresh was begun with the very refresh token that the credential holds."""
        token = credential.refresh_token if credential is not None else None
        return token is not None and self.refresh_token_fingerprint == fingerprint(token)


class LoginSession(msgspec.Struct, frozen=True):
    """One attempt of a person to log in. `state`, `verifier` and `device_code` are empty once it is over."""

    session_id: str
    start: datetime
    expires: datetime
    state: str = ""
    verifier: str = ""
    request: str = ""
    # a code that was pasted and not yet exchanged; it is here, and no longer on the object
    code: str | None = None
    # SHA-256 of the last pasted text, to know it again when an old event shows it once more
    handled_code: str = ""
    # why the last code led to nothing: a reason, and what a person reads
    problem: str | None = None
    problem_message: str = ""
    # grant DeviceCode (RFC 8628 3.2): only the first of these is a secret
    device_code: str = ""
    user_code: str = ""
    verification_uri: str = ""
    verification_uri_complete: str | None = None
    poll_seconds: float = 0

    def __repr__(self) -> str:
        return f"<LoginSession {self.session_id}>"

    @property
    def is_over(self) -> bool:
        return not self.state and not self.device_code


class Owner(msgspec.Struct, frozen=True):
    """Whose credential a folder holds, for whoever finds it without its object."""

    name: str
    namespace: str
    provider: str
    grant: str


class Retained(Owner, frozen=True):
    """Whose credential a folder holds whose account was deleted with `deletionPolicy: Retain`, and since when."""

    since: datetime


class Import(msgspec.Struct, frozen=True):
    """A credential that a person hands over. It waits here for the running operator, which alone writes credentials."""

    request: str  # tells this import from another
    refresh_token: str
    access_token: str
    expires: datetime
    subject: str | None = None
    retained_uid: str | None = None  # of the deleted account that it is from

    def __repr__(self) -> str:
        return f"<Import {self.request}>"


class Wait(msgspec.Struct, frozen=True):
    """Something that failed, when it is tried again, and what a person reads of it."""

    failures: int
    since: datetime
    retry_at: datetime
    reason: str
    message: str
    is_stalled: bool
    is_held: bool = False  # by the provider's word, which counts for its other accounts, too


class Waits(msgspec.Struct, frozen=True):
    """What must not be forgotten by a restart, or a crash loop would ask a provider that has told us to wait."""

    generation: int = 0  # of the spec that it is about
    by_subject: dict[str, Wait] = {}
    last_forced_refresh: datetime | None = None
    # fingerprint of the refresh token that was answered with invalid_grant once
    doubted: str = ""
    # how often a refresh was refused in words that nobody knows, and since when
    refusals: int = 0
    refused_since: datetime | None = None

    @property
    def says_something(self) -> bool:
        """It is worth a file."""
        return bool(self.by_subject or self.last_forced_refresh or self.doubted or self.refusals)


class AccessFile(msgspec.Struct, frozen=True):
    """What proxies read."""

    generation: int
    access_token: str
    expires: str

    def __repr__(self) -> str:
        return f"<AccessFile generation {self.generation}>"
