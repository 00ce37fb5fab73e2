"""Address and token of the cluster that a command uses, and HTTP requests to it."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import stat
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import InputError, first_line, shown
from ...storage.environment import environment_set, home_directory
from ...storage.filesystems import refuse_userinfo
from ...storage.safe_reading import read_regular
from .daemon import Daemon, running_daemons
from .loopback import MULTI_NODE_ENV
from .ports import LOOPBACK, check_answers, host_and_port

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

_ADDRESS_ENV = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_GCS_PORT = 6379
_TOKEN = re.compile(r"[!-~]+")
_TOKEN_BYTES = 64 * 1024
_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ClusterAddress:
    """A cluster's dashboard, which accepts jobs, and the token for it."""

    dashboard: str  # "http://127.0.0.1:8265"
    token_file: Path | None  # None: no token, or `token`
    token: str | None = field(default=None, repr=False)

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers of a request.

        Raises:
            InputError: The token file cannot be read.
        """
        token = read_token(self.token_file) if self.token_file else self.token
        # Ray looks for the name in lower case before it adds a token of its own.
        return {"authorization": f"Bearer {token}"} if token else {}


def find_cluster(address: str | None = None, token_file: Path | None = None) -> ClusterAddress:
    """Find the cluster at ``address``, else that of RAY_ADDRESS, else the one that `cluster up` started here.

    The token is that of ``token_file``; else, for the head started here, its own; else that of RAY_AUTH_TOKEN,
    RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, in Ray's order.

    Raises:
        InputError: There is no cluster, or the address does not accept jobs.
    """
    head = next((each for each in running_daemons() if each.kind == "head"), None)
    source, given = "--address", address
    for name in _ADDRESS_ENV:
        if given is None and os.environ.get(name, "auto") not in ("auto", "local", ""):
            source, given = name, os.environ[name]
    if given is None:
        if head is None or head.dashboard is None:
            raise InputError(
                "--address: no cluster found; give --address http://HOST:8265, set RAY_ADDRESS, or start one here "
                "with `distiltune cluster up`"
            )
        dashboard = head.dashboard
    else:
        dashboard = _dashboard(source, given, head)
    return _authenticated(dashboard, token_file, head)


def read_token(path: Path) -> str:
    """Read the token in a file; a file that others can read is made private, or a warning is logged.

    Raises:
        InputError: The file cannot be read, or does not hold one token.
    """
    try:
        token = read_regular(path, _TOKEN_BYTES).decode().strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
        raise InputError(
            f"--token-file: {path} cannot be read: {reason}; copy the file that `distiltune cluster up` prints"
        ) from None
    if not _TOKEN.fullmatch(token):
        raise InputError(
            f"--token-file: {path} does not contain exactly one token; copy the file that `distiltune cluster up` "
            f"prints"
        )
    if mode & 0o077:
        try:
            path.chmod(0o600)
            logger.warning(
                "--token-file: %s was accessible to other users (%o); its mode is now 600", path, mode
            )
        except OSError:
            logger.warning(
                "--token-file: %s is accessible to other users (%o); run chmod 600 on it", path, mode
            )
    return token


def get_json(cluster: ClusterAddress, path: str, timeout_s: float = 10.0) -> Any:
    """Return the dashboard's response to a GET of ``path``, sent with the token.

    Raises:
        InputError: Nothing responds in time, the token is missing or wrong, or the response is not JSON.
    """
    url = urlsplit(cluster.dashboard)
    if not _has_proxy(cluster.dashboard):
        check_answers("--address", cluster.dashboard, str(url.hostname), url.port or 0)
    request = urllib.request.Request(cluster.dashboard + path, headers=cluster.headers())
    handlers: list[Any] = [_NoRedirect]
    if _is_loopback(cluster.dashboard):
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout_s) as answer:
            return json.loads(answer.read(_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        raise InputError(_status_message(cluster, path, error.code)) from None
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        raise InputError(_failure_message(cluster, error)) from None


def job_client(cluster: ClusterAddress) -> JobSubmissionClient:
    """Return a connected client of the cluster's jobs, with this cluster's token whatever Ray has cached.

    Raises:
        InputError: Nothing responds in time, or the token is missing or wrong.
    """
    get_json(cluster, "/api/version")
    from ray.job_submission import JobSubmissionClient

    if _is_loopback(cluster.dashboard):
        _bypass_proxy(str(urlsplit(cluster.dashboard).hostname))
    # Ray lets these variables override the address that it is given.
    with environment_set(dict.fromkeys(_ADDRESS_ENV)):
        try:
            return JobSubmissionClient(cluster.dashboard, headers=cluster.headers())
        except (RuntimeError, OSError) as error:
            raise InputError(_failure_message(cluster, error)) from error


def check_gcs_address(parameter: str, given: str) -> None:
    """Check that a Ray head responds where ``ray.init`` will connect, since ``ray.init`` would wait for minutes.

    ``auto`` is left to Ray, which looks for a head on this machine; if RAY_ADDRESS is set, that one is checked.

    Args:
        parameter: The parameter's name, for the message.
        given: Its value: ``HOST:PORT`` or ``auto``.

    Raises:
        InputError: The value has another form, nothing responds there, or the server is not a Ray head.
    """
    address = os.environ.get("RAY_ADDRESS") or given if given == "auto" else given
    if address == "auto":
        return
    if "://" in address or address == "local":
        refuse_userinfo(parameter, address)
        raise InputError(
            f"{parameter}: {shown(address)} is not an address that nodes join; give HOST:6379 or auto, remove it "
            f"to use a local Ray, or submit the job with `distiltune submit --address http://HOST:8265`"
        )
    check_answers(parameter, address, *host_and_port(parameter, address), is_ray=True)


def driver_environment(gcs_address: str) -> dict[str, str]:
    """Return the variables that ``ray.init(gcs_address)`` needs for a head or node started here; else none.

    Jobs inherit these variables from the node that they run on.
    """
    address = gcs_address.replace("localhost:", f"{LOOPBACK}:")
    daemon = next((each for each in running_daemons() if each.address == address), None)
    if daemon is None:
        return {}
    found = {MULTI_NODE_ENV: "0"} if daemon.options["host"] == LOOPBACK else {}
    if daemon.token_file is None:
        return found | {"RAY_AUTH_MODE": "disabled"}
    # Ray prefers the token in RAY_AUTH_TOKEN to one in a file.
    token = Path(daemon.token_file).read_text(encoding="utf-8")
    return found | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so that the token is sent to the given address only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _dashboard(source: str, given: str, head: Daemon | None) -> str:
    """Return a dashboard's ``scheme://host:port``; our own head may also be given by the address that nodes join."""
    whole = given if "://" in given else f"http://{given}"
    refuse_userinfo(source, whole)
    hint = "give the dashboard, such as http://HOST:8265"
    try:
        url = urlsplit(whole)
        host, port = url.hostname, url.port
    except ValueError:
        raise InputError(f"{source}: {shown(given)} is not an address; {hint}") from None
    if url.scheme not in ("http", "https") or not host or not all(each.isprintable() for each in given):
        raise InputError(f"{source}: {shown(given)} does not accept jobs; {hint}")
    if url.query or url.fragment or url.path not in ("", "/") or port == 0 or " " in given:
        without_query = given.partition("?")[0]
        raise InputError(f"{source}: {shown(without_query)} has more than scheme, host and port; {hint}")
    if head and head.dashboard and _same(f"{host}:{port}", head.address):
        return head.dashboard
    if port == _GCS_PORT:
        raise InputError(
            f"{source}: {shown(given)} is the address that nodes join (GCS), which does not accept jobs; {hint}"
        )
    default = 443 if url.scheme == "https" else 8265
    named = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{named}:{port or default}"


def _authenticated(dashboard: str, token_file: Path | None, head: Daemon | None) -> ClusterAddress:
    if token_file is not None:
        read_token(token_file)
        return ClusterAddress(dashboard, token_file)
    if head and _same(dashboard, str(head.dashboard)):
        return ClusterAddress(dashboard, Path(head.token_file) if head.token_file else None)
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return ClusterAddress(dashboard, None, token)
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return ClusterAddress(dashboard, Path(path))
    home = home_directory()
    default = home / ".ray" / "auth_token" if home else None
    # Ray's own file: its permissions are left to Ray.
    token = default.read_text(encoding="utf-8").strip() if default and default.is_file() else None
    return ClusterAddress(dashboard, None, token)


def _same(first: str, second: str) -> bool:
    return first.replace("//localhost:", "//127.0.0.1:").replace("localhost:", "127.0.0.1:") == second


def _status_message(cluster: ClusterAddress, path: str, status: int) -> str:
    if status == 401:
        return (
            f"--token-file: {cluster.dashboard} requires a token; give the file that `distiltune cluster up` "
            f"prints there, or set RAY_AUTH_TOKEN_PATH"
        )
    if status == 403:
        where = cluster.token_file or "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        return (
            f"--token-file: {cluster.dashboard} rejects the token of {where}; give the file that `distiltune "
            f"cluster up` prints there"
        )
    return f"--address: {cluster.dashboard} answers {status} to {path}; is it a Ray dashboard?"


def _failure_message(cluster: ClusterAddress, error: Exception) -> str:
    if isinstance(error, (HTTPException, ValueError, RecursionError)):
        return (
            f"--address: the server at {cluster.dashboard} is not a Ray dashboard; give the dashboard address that "
            f"`distiltune cluster up` prints"
        )
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or first_line(reason if isinstance(reason, Exception) else error)
    return (
        f"--address: no response from {cluster.dashboard} ({text}); is the cluster up, and its dashboard reachable "
        f"from here?"
    )


def _has_proxy(dashboard: str) -> bool:
    """Return whether requests use a proxy from the environment, so that the address may be unreachable from here."""
    url = urlsplit(dashboard)
    if _is_loopback(dashboard) or urllib.request.proxy_bypass(url.netloc):
        return False
    return url.scheme in urllib.request.getproxies()


def _is_loopback(dashboard: str) -> bool:
    host = urlsplit(dashboard).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bypass_proxy(host: str) -> None:
    """Exclude a loopback address from the environment's proxy, which would connect to its own machine."""
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host not in before.split(","):
        os.environ["no_proxy"] = ",".join(filter(None, [before, host]))
