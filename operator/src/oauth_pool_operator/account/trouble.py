"""What is wrong with an account, by subject. Each subject fails, waits and recovers on its own."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Subject(StrEnum):
    """In the order in which they matter to a person who reads one line only."""

    SPEC = "spec"
    STORAGE = "storage"  # of what must not be lost: the state volume
    ACCESS = "access"  # of what proxies read of tokens: the access volume
    CLUSTER = "cluster"
    REFRESH = "refresh"
    INDEX = "index"
    LOGIN = "login"
    REVOCATION = "revocation"  # of a grant that nobody needs any more


# While something is wrong with one of these, the account may be, or come to be, without a token that proxies can use.
OF_TOKENS = (Subject.SPEC, Subject.STORAGE, Subject.ACCESS, Subject.CLUSTER, Subject.REFRESH, Subject.INDEX)


@dataclass(frozen=True)
class Trouble:
    """A reason, its text, and when to try again."""

    reason: str
    message: str
    retry_at: datetime
    is_stalled: bool  # True: a person has to change something. False: it passes by itself
    is_held: bool = False  # True: the provider asked us to wait
