"""Who can log in: a subject (an e-mail address, or a ServiceAccount) and the identifiers the provider shows for it."""

import threading
import uuid
from collections.abc import Iterable


def account_uuid(subject: str) -> str:
    """Always the same for one subject."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"account:{subject}"))


def personal_organization_id(subject: str) -> str:
    """The organisation of somebody who logged in with a browser."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"organization:{subject}"))


def identity(subject: str, organization_id: str) -> dict[str, dict[str, str]]:
    """The `account` and `organization` objects of a token answer."""
    return {
        "account": {"uuid": account_uuid(subject), "email_address": subject},
        "organization": {"uuid": organization_id, "name": f"Organization of {subject}"},
    }


class Accounts:
    """The subjects seen so far, in order. Thread-safe."""

    def __init__(self, subjects: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._subjects = dict.fromkeys(subjects)

    def add(self, subject: str) -> None:
        with self._lock:
            self._subjects[subject] = None

    def subjects(self) -> list[str]:
        with self._lock:
            return list(self._subjects)
