"""Whether a run is sent to W&B while it trains: asked for, with a key, and a server that answers within seconds.

The client itself would wait 100 s for a server that does not answer, and then end the run.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.runs import RunError

Mode = Literal["auto", "online", "offline", "disabled"]

PATIENCE = 3.0  # seconds for the server to answer
ALIASES = {"run": "online", "shared": "online", "dryrun": "offline", "": "auto"}  # W&B's own other words for them


@dataclass(frozen=True)
class Decision:
    """What a run does about W&B.

    Args:
        mode: `online`; `offline`, where `python -m benchmarks sync` can send the run later; `disabled`, where it does
            not.
        why: in a few words.
        loud: whether to say so on the terminal, and not in the log only: to whoever has a key or asked for something.
    """

    mode: Literal["online", "offline", "disabled"]
    why: str
    loud: bool = True


def decide(asked: str | None) -> Decision:
    """The mode of a run, from `--wandb`, else `$WANDB_MODE`, else `auto`: online if that can be.

    Raises:
        RunError: there is no such mode.
    """
    mode = asked_for(asked)
    if mode in ("offline", "disabled"):
        return Decision(mode, "as asked", loud=mode == "offline")  # type: ignore[arg-type]
    if not may_have_key():
        return Decision("offline", "there is no key (`wandb login` keeps one)", loud=mode == "online")
    try:
        why = fault(*account())
    except Exception as error:  # it is not installed, or does not like its own settings
        why = f"its client says: {str(error).strip().partition(chr(10))[0] or type(error).__name__}"
    return Decision("offline", why) if why else Decision("online", "a key is there, and its server answers")


def asked_for(asked: str | None) -> str:
    """The word of `--wandb`, else of `$WANDB_MODE`, else `auto`; nothing is asked of anybody.

    Raises:
        RunError: there is no such mode.
    """
    given = asked or os.environ.get("WANDB_MODE", "")
    mode = ALIASES.get(given, given)
    if mode not in ("auto", "online", "offline", "disabled"):
        raise RunError(f"WANDB_MODE (={given}) must be auto, online, offline or disabled: set it to one, or unset it.")
    return mode


def may_have_key() -> bool:
    """Whether there is a place where a key could lie, so that the client is worth importing, which takes a second."""
    files = (os.environ.get("NETRC") or "~/.netrc", "~/_netrc")
    named = any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    return named or any(is_readable(file) for file in files)


def is_readable(file: str) -> bool:
    """Whether there is such a file; a home folder that is unknown or closed to us has none."""
    try:
        return Path(file).expanduser().is_file()
    except (OSError, RuntimeError):
        return False


def account() -> tuple[str, str]:
    """The server's address and a key for it, where the client finds them; "" where there is no key.

    Raises:
        Exception: the client is not installed, or refuses its settings, such as a key that is too short.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers, whose host name it looks up
    os.environ.setdefault("WANDB_SILENT", "true")  # what there is to say is said here
    if os.environ.get("WANDB_MODE") == "auto":  # a word that the client does not know
        del os.environ["WANDB_MODE"]
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    settings = wandb_setup.singleton().settings
    key = settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    return settings.base_url, key or ("token" if settings.identity_token_file else "")


def fault(url: str, key: str, patience: float | None = None) -> str:
    """Why nothing can be sent to the server at `url` with `key`; "" if nothing speaks against it."""
    patience = patience or PATIENCE
    if not key:
        return "there is no key for the server (`wandb login` keeps one)"
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(ask(url, key, patience)), daemon=True)
    asking.start()
    asking.join(patience)  # a name that does not resolve may take longer than any timeout
    return found[0] if found else f"{url} does not answer within {patience:.0f} s"


def ask(url: str, key: str, patience: float) -> str:
    """One question to the server, whose key it is; why the answer is none, or ""."""
    token = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json", "User-Agent": "ilsvrc-bench"}
    body = json.dumps({"query": "query Viewer { viewer { id entity } }", "variables": {}}).encode()
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/graphql", body, headers), timeout=patience).close()
    except urllib.error.HTTPError as error:
        if error.code == 401 and key != "token":
            return f"{url} refuses the key (`wandb login --relogin` asks for another)"
        return f"{url} answers {error.code}" if error.code == 404 or error.code >= 500 else ""
    except TimeoutError:
        return f"{url} does not answer within {patience:.0f} s"
    except Exception as error:  # whatever stands between here and there
        reason = getattr(error, "reason", error)
        if "CERTIFICATE" in str(reason):  # it answers; the client has its own opinion of certificates
            return ""
        return f"{url} cannot be reached ({str(reason) or type(reason).__name__})"
    return ""
