"""Hands a person's credential to the running operator: what the commands `import`, `adopt` and `orphans` do.

They run beside it, in its pod, and never write its files: they leave the credential in a separate file on the state volume,
annotate the object, and wait for the outcome. Results go to standard output, everything else to standard error.
"""

import asyncio
import json
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2

from oauth_pool_operator.account import conditions as c
from oauth_pool_operator.account.documents import Credential, Import
from oauth_pool_operator.account.spec import FINALIZER, GROUP, IMPORT_ANNOTATION, KIND, VERSION, Account
from oauth_pool_operator.cluster.answers import describe
from oauth_pool_operator.cluster.api import Cluster
from oauth_pool_operator.config import Config
from oauth_pool_operator.errors import StoreCorrupt, StoreFailed
from oauth_pool_operator.handover.credential_files import Entry, Found, shown
from oauth_pool_operator.storage.left_behind import LeftBehind
from oauth_pool_operator.storage.store import Store, in_thread

DONE, FAILED, TOO_LATE = 0, 1, 3

LOOK_SECONDS = 0.5

_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# What an account may say of itself that has its credential and is not used now for another reason.
_IN_ORDER = (c.AVAILABLE, c.COOLING_DOWN, c.SUSPENDED)


class NotDone(Exception):
    """One account was not given its credential; the text is for the person."""


Say = Callable[[str], None]


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class ListedAccounts:
    """Accounts as the API server lists them, asked once every `LOOK_SECONDS`, however many are waited for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._began = 0.0
        self._listing: asyncio.Task[list[Account]] | None = None

    async def account(self, name: str) -> Account | None:
        now = time.monotonic()
        if self._listing is None or (self._listing.done() and now - self._began >= LOOK_SECONDS):
            self._began, self._listing = now, asyncio.create_task(self._cluster.accounts())
        accounts = await asyncio.shield(self._listing)
        return next((account for account in accounts if account.name == name), None)


@dataclass
class Handover:
    """Everything that the commands need."""

    store: Store
    cluster: Cluster
    config: Config
    timeout: float

    def __post_init__(self) -> None:
        self._find: Callable[[str], Awaitable[Account | None]] = self.cluster.account

    async def import_one(self, name: str, entry_id: str | None, found: Found) -> int:
        entry = _chosen(name, entry_id, found)
        return await self._hand_over([(name, _as_import(entry))])

    async def import_all(self, found: Found, *, replace: bool, create_for: str | None) -> int:
        """Import every entry into the account of its name; accounts that work are skipped unless `replace`."""
        if "" in found.entries or "" in found.problems:
            raise NotDone("the entry has no id to find its account by: name the account instead of --all")
        accounts = {account.name: account for account in await self.cluster.accounts()}
        unknown = [name for name in found.entries if name not in accounts]
        wanted = []
        for name, entry in found.entries.items():
            if name not in accounts:
                continue
            if not replace and _works(accounts[name]):
                say(f"{name}: skipped, because it is Ready (--replace imports it anyway)")
                continue
            wanted.append((name, _as_import(entry)))
        is_complete = self._account_for(unknown, create_for) and not found.problems
        self._find = ListedAccounts(self.cluster).account
        code = await self._hand_over(wanted, out=say if create_for else _print)
        return code if code != DONE or is_complete else FAILED

    async def adopt(self, name: str, uid: str | None) -> int:
        account = await self._account(name)
        left = await self._left_behind()
        fitting = {folder: one for folder, one in left.items() if _fits(one, account)}
        if uid is None and _works(account):
            raise NotDone("it is Ready; to replace its credential anyway, say which one to adopt with --from")
        if uid is None:
            usable = {folder: one for folder, one in fitting.items() if one.has_credential}
            uid = _only(name, usable or fitting)
        elif uid not in left:
            raise NotDone(f"no folder {uid} is without an account; there are for {name}: {_listed(fitting)}")
        elif not _fits(left[uid], account):
            raise NotDone(f"folder {uid} belongs to another account: {_described(left[uid])}")
        credential = await in_thread(self.store.credential, uid)
        return await self._hand_over([(name, _as_adoption(uid, credential))])

    async def orphans(self) -> int:
        """List the folders that no account owns: what `adopt` can take, and what goes one day."""
        left = await self._left_behind()
        for uid, one in sorted(left.items()):
            held = "a credential" if one.has_credential else "no usable credential"
            kept = f"kept since {one.since:%Y-%m-%dT%H:%M:%SZ}" if one.since else "not noticed by the operator yet"
            _print(f"{uid}: {_described(one)}; {held}; {kept}")
        if not left:
            say("every folder belongs to an account")
        return DONE

    async def _left_behind(self) -> dict[str, LeftBehind]:
        owned = set[str]()
        await self.cluster.show_all(lambda body: owned.add(body["metadata"]["uid"]))
        return await in_thread(self.store.left_behind, owned)

    # --- steps -------------------------------------------------------------------------------------------------------

    async def _hand_over(self, wanted: Sequence[tuple[str, Import]], out: Say | None = None) -> int:
        codes = await asyncio.gather(*(self._hand_over_one(name, given, out or _print) for name, given in wanted))
        return FAILED if FAILED in codes else max(codes, default=DONE)

    async def _hand_over_one(self, name: str, given: Import, out: Say) -> int:
        deadline = time.monotonic() + self.timeout
        try:
            account = await self._account(name, until=deadline)
            if not await self._is_news(account, given):
                out(f"{name}: has this credential already")
                return DONE
            await in_thread(self.store.save_import, account.uid, given)
            try:
                await self.cluster.annotate(account, IMPORT_ANNOTATION, datetime.now(UTC).isoformat())
            except httpx2.HTTPError as error:
                # without the annotation, nobody would ever take it
                await in_thread(self.store.end_import, account.uid, given)
                raise NotDone(f"the request could not be written to the object: {describe(error)}") from error
            say(f"{name}: handed over; waiting for the operator")
            return await self._follow(account, deadline, out)
        except (NotDone, StoreFailed) as error:
            say(f"{name}: not imported: {error}")
            return FAILED

    async def _account(self, name: str, until: float = 0.0) -> Account:
        """The object, once the operator has taken it into its care (its finalizer says so)."""
        while True:
            account = await self._found(name)
            if account.deleting:
                raise NotDone("it is being deleted")
            if not account.has_login:
                raise NotDone(f"its grant is {account.spec.grant}, which stores no credential")
            if FINALIZER in account.finalizers:
                return account
            if time.monotonic() >= until:
                raise NotDone("the operator has not seen it yet; is it running?")
            await asyncio.sleep(LOOK_SECONDS)

    async def _found(self, name: str) -> Account:
        try:
            account = await self._find(name)
        except httpx2.HTTPError as error:
            raise NotDone(describe(error)) from error
        if account is None:
            raise NotDone(f"there is no {KIND} {name} in namespace {self.config.operator.namespace}")
        return account

    async def _is_news(self, account: Account, given: Import) -> bool:
        """False when the account has this very credential. One that it has spent already would only kill it."""
        try:
            stored = await in_thread(self.store.credential, account.uid)
        except StoreCorrupt:
            return True
        if stored is None or stored.dead is not None:
            return True
        if given.refresh_token == stored.previous_refresh_token:
            raise NotDone("it has already used this refresh token and holds the newer one; nothing was changed")
        return given.refresh_token != stored.refresh_token

    async def _follow(self, before: Account, deadline: float, out: Say) -> int:
        """Print the account's status until it is in order, or time is up."""
        generation, last_said = _generation(before), ""
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                account = await self._found(before.name)
            except NotDone as error:
                message = str(error)
            else:
                if account.uid != before.uid or account.deleting:
                    await in_thread(self.store.end_import, before.uid, None)
                    raise NotDone("it was deleted meanwhile")
                ready = c.find(account.conditions, c.READY) or {}
                reason, message = ready.get("reason", ""), f"{ready.get('reason')}: {ready.get('message')}"
                if IMPORT_ANNOTATION not in account.annotations and _generation(account) > generation:
                    if reason in _IN_ORDER:
                        out(f"{before.name}: {message}")
                        return DONE
                    if reason in (c.DISABLED, c.LOGIN_REQUIRED):
                        raise NotDone(f"the provider does not accept it ({message})")
            if message != last_said:
                say(f"{before.name}: {message}")
                last_said = message
        say(f"{before.name}: handed over, but not in use after {self.timeout:g} s; the operator keeps trying")
        return TOO_LATE

    def _account_for(self, unknown: Sequence[str], create_for: str | None) -> bool:
        """Name the entries that have no account, or print a manifest for each; True when nothing is left to do."""
        if create_for is None:
            for name in unknown:
                say(f"{shown(name)}: there is no {KIND} of this name (--create --provider P prints a manifest)")
            return not unknown
        profile = self.config.providers.get(create_for)
        if profile is None:
            known = ", ".join(sorted(self.config.providers)) or "none"
            raise NotDone(f"the configuration has no provider {create_for} that can be used; it knows {known}")
        grant = next((grant for grant in ("AuthorizationCode", "DeviceCode") if grant in profile.grants), None)
        if grant is None:
            raise NotDone(f"provider {create_for} offers no grant that stores a credential")
        good = [name for name in unknown if _OBJECT_NAME.fullmatch(name)]
        for name in sorted(set(unknown) - set(good)):
            say(f"{shown(name)}: cannot be an object's name; create one and import into it with --entry")
        for name in good:
            sys.stdout.write(_manifest(name, self.config.operator.namespace, create_for, grant))
        return len(good) == len(unknown)


def _works(account: Account) -> bool:
    """It can be used, and nobody is asked to log in."""
    return c.is_true(account.conditions, c.READY) and not c.is_true(account.conditions, c.LOGIN_REQUIRED)


def _chosen(name: str, entry_id: str | None, found: Found) -> Entry:
    ids = [*found.entries, *found.problems]
    wanted = entry_id if entry_id is not None else name
    if entry_id is None and name not in ids and len(ids) == 1:
        wanted = ids[0]
    if wanted in found.entries:
        return found.entries[wanted]
    if wanted in found.problems:
        raise NotDone(f"not imported: {f'entry {shown(wanted)}: ' if wanted else ''}{found.problems[wanted]}")
    listed = ", ".join(shown(one) for one in ids)
    raise NotDone(f"there is no entry {shown(wanted)}; there are {listed}: say which with --entry")


def _as_import(entry: Entry) -> Import:
    return Import(secrets.token_hex(8), entry.refresh_token, entry.access_token, entry.expires)


def _as_adoption(uid: str, credential: Credential | None) -> Import:
    if credential is None or credential.refresh_token is None:
        raise NotDone(f"folder {uid} holds no refresh token")
    if credential.dead is not None:
        raise NotDone(f"the credential in folder {uid} is useless: its grant was dead ({credential.dead})")
    return Import(
        request=secrets.token_hex(8),
        refresh_token=credential.refresh_token,
        access_token=credential.access_token,
        expires=credential.expires,
        subject=credential.subject,
        retained_uid=uid,
    )


def _fits(one: LeftBehind, account: Account) -> bool:
    """Not by namespace: a backup may have been restored into another."""
    wanted = (account.name, account.spec.provider, account.spec.grant)
    return one.owner is not None and (one.owner.name, one.owner.provider, one.owner.grant) == wanted


def _only(name: str, fitting: dict[str, LeftBehind]) -> str:
    if not fitting:
        raise NotDone(f"nothing was left behind by an account {name} of this provider and grant")
    if len(fitting) > 1:
        raise NotDone(f"there is more than one for {name}; say which with --from: {_listed(fitting)}")
    return next(iter(fitting))


def _listed(fitting: dict[str, LeftBehind]) -> str:
    return ", ".join(f"{uid}{_since(one)}" for uid, one in sorted(fitting.items(), key=_age)) or "nothing"


def _age(item: tuple[str, LeftBehind]) -> tuple[str, str]:
    return _since(item[1]), item[0]


def _since(one: LeftBehind) -> str:
    return f" (since {one.since:%Y-%m-%dT%H:%M:%SZ})" if one.since is not None else ""


def _described(one: LeftBehind) -> str:
    if one.owner is None or not one.name:
        return "nobody knows whose"
    return f"{one.owner.namespace}/{one.name}, provider {one.owner.provider}, grant {one.owner.grant}"


def _generation(account: Account) -> int:
    return int(account.status.get("token", {}).get("generation", 0))


def _manifest(name: str, namespace: str, provider: str, grant: str) -> str:
    # JSON strings are YAML strings, also for a name like "1e3"
    return (
        f"---\napiVersion: {GROUP}/{VERSION}\nkind: {KIND}\n"
        f"metadata: {{name: {json.dumps(name)}, namespace: {json.dumps(namespace)}}}\n"
        f"spec: {{provider: {json.dumps(provider)}, grant: {grant}}}\n"
    )
