"""Checks whether what a person copied from the provider's page is surely wrong, before it leaves this machine.

The operator judges everything else: it forgives what copying adds, and nothing that it would accept is refused here. No
message repeats anything that was pasted.
"""

import re
import unicodedata
from urllib.parse import unquote

REFUSED = "the page refused the login: open the URL again and approve"
OF_ANOTHER_LOGIN = "this code belongs to another login: open the URL above, and copy what its page shows"
WITHOUT_CODE = "this is neither what the page shows nor the URL that the browser ended at"

_ERROR, _CODE = re.compile(r"[?&#]error="), re.compile(r"[?&#]code=")


def problem_with(pasted: str, state: str) -> str:
    """Why it cannot be the answer to a login with that `state`; empty when it may be.

    A code may come without its state, from providers whose page shows no more.
    """
    text = unquote("".join(one for one in pasted if not one.isspace() and unicodedata.category(one) != "Cf"))
    is_url = text.startswith(("https:", "http:"))
    if _ERROR.search(text) and not _CODE.search(text):
        return REFUSED
    if not any(map(str.isalnum, text)) or (is_url and not _CODE.search(text)):
        return WITHOUT_CODE
    has_state = "#" in text or "state=" in text
    return OF_ANOTHER_LOGIN if state and has_state and state not in text else ""
