"""The net below both programs' logs: what an exception quotes of a credential is not printed, and all else is."""

import json
import subprocess
import sys

import pytest

import oauth_pool_operator.redaction as of_operator
import oauth_pool_proxy.observe.redaction as of_proxy

OPAQUE = "q7Zr-X2_mK9fLw4TgBv8NcYd1JhPs5Ue"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
programs = pytest.mark.parametrize("module", [of_operator, of_proxy], ids=["operator", "proxy"])


@programs
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Illegal header value b'Bearer opaque-words-only'", "opaque-words-only"),
        ("authorization: Basic dXNlcjpwYXNz\r\n", "dXNlcjpwYXNz"),
        (f"no key for {JWT}", "c2lnbmF0dXJl"),
        ("key 'sk-ant-oat01-abc_def' refused", "abc_def"),
        ('{"access_token": "plain-words", "expires_in": 1}', "plain-words"),
        ('{\\"refresh_token\\":\\"plain-words\\"}', "plain-words"),
        ("Credential(refresh_token='plain-words', dead=None)", "plain-words"),
        ("grant_type=refresh_token&refresh_token=plain-words&scope=a", "plain-words"),
        ("(b'x-api-key', b'plain-words')", "plain-words"),
        ("('Authorization', 'plain-words')", "plain-words"),
        ("https://provider.example/callback?code=plain-words&state=other-words", "words"),
        ("code_verifier=plain-words", "plain-words"),
        ("client_secret: plain-words", "plain-words"),
        ("cannot connect to http://me:plain-words@gateway:3128", "plain-words"),
    ],
)
def test_a_credential_is_known_by_its_form_or_by_the_name_before_it(module: object, text: str, secret: str) -> None:
    clean: str = module.redacted(text)  # type: ignore[attr-defined]
    assert secret not in clean and "[redacted]" in clean


@programs
@pytest.mark.parametrize(
    "text",
    [
        "set the client up for bearer tokens",
        "a bearer token is needed, and no Basic authentication",
        "account 3f0c8e0a-5b1e-4f57-9a3e-0c1d2e3f4a5b: refresh_token is missing",
        "the token endpoint answered 400 invalid_grant",
        "error_code=invalid_request status code: 503",
        "'/var/lib/oauth-pool/state/3f0c8e0a-5b1e-4f57-9a3e-0c1d2e3f4a5b/credential.json' cannot be read",
        "refresh_token=None",
        'File "/app/oauth_pool_operator/oauth/endpoint.py", line 99, in refresh',
    ],
)
def test_what_a_person_has_to_read_stays(module: object, text: str) -> None:
    assert module.redacted_exception(text) == text  # type: ignore[attr-defined]


SCRIPT = """
import asyncio, logging, threading
from {module} import set_up_logging
set_up_logging("{level}")
SECRET = "{secret}"
log = logging.getLogger("{logger}")

def stumble():
    raise KeyError(SECRET)

async def forget():
    asyncio.get_running_loop().create_task(fail())
    await asyncio.sleep(0.01)
    import gc
    gc.collect()

async def fail():
    stumble()

try:
    try:
        stumble()
    except KeyError as error:
        raise ValueError(f"cannot read {{error}}") from error
except ValueError as error:
    log.exception("told with its traceback")
    log.error("told as an argument: %s", error)
    log.error("told as %(its)s", {{"its": "name"}})
    log.error("cannot be put together %d", SECRET)
asyncio.run(forget())
thread = threading.Thread(target=stumble, name="lost")
thread.start()
thread.join()
"""


@pytest.mark.parametrize("level", ["info", "trace"])
@pytest.mark.parametrize("module", ["oauth_pool_operator.logs", "oauth_pool_proxy.observe.logs"])
def test_no_way_out_of_a_program_prints_what_an_exception_holds(module: str, level: str) -> None:
    script = SCRIPT.format(module=module, level=level, secret=OPAQUE, logger=f"{module.partition('.')[0]}.test")
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    printed = ended.stdout + ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert OPAQUE not in printed and "[redacted]" in printed
    assert ended.stderr == ""
    messages = " ".join(line["message"] for line in lines)
    for told in (
        "told with its traceback",
        "told as an argument",
        "told as name",
        "never retrieved",
        "ended by an exc",
    ):
        assert told in messages
    assert "in stumble" in ended.stdout  # where it happened is not lost


def test_what_ends_the_proxy_is_a_line_like_the_others() -> None:
    script = SCRIPT.format(
        module="oauth_pool_proxy.observe.logs", level="info", secret=OPAQUE, logger="oauth_pool_proxy"
    )
    command = [sys.executable, "-c", f"{script}\nstumble()"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, ended.stderr, last["error"]) == (1, "", "KeyError: '[redacted]'")
