"""A repository of a model hub: its name, the client that reads and writes it, and its errors in our words."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....errors import DistiltuneError, HubError, InputError, cut, first_line, shown, without_userinfo
from ..copying import is_of_disk
from ..files import HUB_PREFIX

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_MOST_CHARACTERS = 96  # of a repository's name
_PART = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?!.*(?:--|\.\.)){_PART}/{_PART}(?<!\.git)", re.ASCII)
_REVISION = re.compile(r"(?!.*(?:\.\.|//))\w[\w./+-]{0,200}(?<![./])", re.ASCII)
_BEARER = re.compile(r"Bearer .*", re.DOTALL)


@dataclass(frozen=True)
class Repository:
    """A model repository, and one of its revisions.

    Attributes:
        name: ``user/name``.
        revision: Branch, tag or commit; None: the main branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


def repository_named(given: str, parameter: str, revision: str | None = None) -> Repository:
    """Parse the name of a repository.

    Args:
        given: ``user/name`` or ``hf://user/name``; with ``@revision`` where ``revision`` is None.
        parameter: Name of the parameter, for the message.
        revision: Branch that another parameter names.

    Raises:
        InputError: The name or the revision is not valid.
    """
    name, at, written = given.removeprefix(HUB_PREFIX).partition("@")
    if not _NAME.fullmatch(name) or len(name) > _MOST_CHARACTERS:
        raise InputError(
            f"{parameter}: {shown(given)} given; specify user/name, of letters, digits, '-', '_' and '.', at most "
            f"{_MOST_CHARACTERS} characters"
        )
    if at and revision is not None:
        raise InputError(f"{parameter}: {shown(given)} given, and --revision; specify the branch once")
    revision = written if at else revision
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(
            f"{parameter if at else '--revision'}: {shown(revision)} is not a branch or revision"
        )
    return Repository(name, revision)


@contextmanager
def hub_client(repository: Repository, *, needs_token: bool = False) -> Iterator[HfApi]:
    """Yield a client of the hub for a block, whose errors of the hub are raised as this package's, on one line.

    The token is read by huggingface_hub, from ``HF_TOKEN`` or the file of ``hf auth login``.

    Args:
        repository: What the block reads or writes, for the messages.
        needs_token: Whether to fail without a token, before any request.

    Raises:
        InputError: The hub must not be used (``HF_HUB_OFFLINE``), there is no token, or no such repository or revision.
        HubError: The hub cannot be reached, denies access, or rejects a request.
        OSError: A file of this machine cannot be written.
    """
    from huggingface_hub import HfApi, constants

    from .... import __version__

    if constants.HF_HUB_OFFLINE:
        raise _offline(repository)
    with _quiet():
        token = _token(repository)
        if needs_token and not token:
            raise InputError(f"{repository}: pushing needs a token, and there is none; {LOG_IN}")
        try:
            yield HfApi(library_name="distiltune", library_version=__version__)
        except DistiltuneError:
            raise
        except Exception as error:
            if is_of_disk(error):
                raise
            raise _translated(error, repository, token) from error


def _token(repository: Repository) -> str | None:
    """Return the token that huggingface_hub sends, to report a missing one early and to keep it out of messages.

    Raises:
        InputError: The file with the token cannot be read.
    """
    from huggingface_hub import constants, get_token

    try:
        return get_token()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise InputError(
            f"{repository}: the token in {constants.HF_TOKEN_PATH} cannot be read ({type(error).__name__}); {LOG_IN}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of huggingface_hub, and its progress bars where stderr is not a terminal."""
    from huggingface_hub import utils

    level = utils.logging.get_verbosity()
    hides_bars = not (sys.stderr and sys.stderr.isatty()) and not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if hides_bars:
            utils.disable_progress_bars()
        try:
            yield
        finally:
            utils.logging.set_verbosity(level)
            if hides_bars:
                utils.enable_progress_bars()


def _offline(repository: Repository) -> InputError:
    return InputError(
        f"{repository}: the hub is not used, since HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it to push "
        "or pull"
    )


def _translated(error: Exception, repository: Repository, token: str | None) -> DistiltuneError:
    """Return our error for what huggingface_hub raised."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    chain = [*_chain(error)]
    if any(isinstance(each, OfflineModeIsEnabled) for each in chain):
        return _offline(repository)
    for each in chain:
        if isinstance(each, HfHubHTTPError):
            return _for_response(each, repository, token)
    endpoint = shown(without_userinfo(constants.ENDPOINT), 80)
    return HubError(
        f"{repository}: the hub at {endpoint} cannot be reached, or does not answer as a hub does "
        f"({_reason(chain[-1], token)}); check the network and HF_ENDPOINT, and try again"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from, the innermost last."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _for_response(error: Any, repository: Repository, token: str | None) -> DistiltuneError:
    """Return our error for an HTTP error of the hub."""
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"{repository}: the repository has no such revision; correct what follows the @")
    if isinstance(error, EntryNotFoundError):
        return InputError(
            f"{repository}: a file is missing there ({_reason(error, token)}); push the artifact again"
        )
    if isinstance(error, GatedRepoError):
        return InputError(f"{repository}: access is gated; accept its terms on its page, and {LOG_IN}")
    if status == 404:
        return InputError(
            f"{repository}: no such model repository, or it is private and the token has no access to it; correct "
            f"the name, or {LOG_IN}"
        )
    what = {
        401: f"no such repository, or the token is missing or not valid; {LOG_IN}",
        403: "the token has no right to do this; use one with write access to this user or organization",
        409: "the repository was changed meanwhile; try again",
        412: "the repository was changed meanwhile; try again",
        429: "too many requests; wait some minutes, and try again",
    }.get(status)
    if what is None and status >= 500:
        what = "the hub has a failure of its own; try again later"
    what = what or "the hub rejects the request; correct what it names"
    return HubError(f"{repository}: {what} (the hub's answer: {status} {_reason(error, token)})")


def _reason(error: BaseException, token: str | None) -> str:
    """Return an error's message on one short line, without the token."""
    message = getattr(error, "server_message", None)
    text = _BEARER.sub("…", without_userinfo(" ".join(message.split())) if message else first_line(error))
    text = text.replace(token, "…") if token else text
    return cut("".join(each if each.isprintable() else " " for each in text), 160)
