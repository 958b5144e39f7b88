"""Files and folders on the Hugging Face hub: fetched in full or not at all, checked, uploaded.

huggingface_hub does the transfers: ``HF_ENDPOINT`` names another hub, ``HF_HOME`` the cache, in
which what was fetched once is found without a network. A download that is cut is resumed while the
program runs, else removed.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

logger = logging.getLogger(__name__)

SAFE = ("*.yaml", "*.json", "*.safetensors", "*.md", "*.txt", "*.model")
"""What is fetched of a repository: nothing that could hold code."""
SHA256 = re.compile("[0-9a-f]{64}")
LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the hub; ``sha256`` is its hash where one is known, else ""."""

    repository: str  # OWNER/NAME
    name: str
    kind: str = "model"  # or "space", "dataset"
    sha256: str = ""

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        section = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{constants.ENDPOINT}/{section}{self.repository}/resolve/main/{self.name}"

    def is_here(self) -> bool:
        """Whether the cache has it; asks no network."""
        found = try_to_load_from_cache(self.repository, self.name, repo_type=self.kind)
        return isinstance(found, str)

    def fetch(self, sha256: str = "") -> Path:
        """The file in the cache, downloaded if it is not there yet. Its hash has to be ``sha256``,
        else the one that is known; where neither is given the log says which it is.

        Raises:
            OSError: it is neither here nor to be had, in one line.
            ValueError: its content is not what the hub announced, or has another hash.
        """
        advice = "Without a network, fetch it elsewhere and give its path as MODEL.WEIGHTS"
        was_here, expected = self.is_here(), sha256 or self.sha256
        if not was_here:
            logger.info("Downloading %s", self.address)
        with _in_one_line(self.address, advice):
            path = Path(hf_hub_download(self.repository, self.name, repo_type=self.kind))
        check_announced(path)
        if expected or not was_here:
            got = require_sha256(path, expected)
            logger.info("%s has the SHA-256 %s; sha256=… pins it", path.name, got)
        return path


def fetch_folder(repository: str, needed: str, revision: str = "") -> Path:
    """The folder of a repository's ``SAFE`` files in the cache, downloaded if it is not there yet;
    ``needed`` is a file without which nothing else is fetched.

    Raises:
        OSError: it is neither here nor to be had, in one line.
        ValueError: a name or a content that is not what it should be.
    """
    what = f"{constants.ENDPOINT}/{repository}" + (f" at revision {revision!r}" if revision else "")
    advice = (
        "Without a network, copy the model's folder to this machine and give its path, or take a "
        "model that needs none, such as photo-mini"
    )
    with _in_one_line(what, advice):
        file = Path(hf_hub_download(repository, needed, revision=revision or None))
        commit = file.parents[len(Path(needed).parts) - 1].name
        folder = Path(snapshot_download(repository, revision=commit, allow_patterns=list(SAFE)))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            check_announced(path)
    return folder


def check_announced(path: Path) -> None:
    """ValueError, and the file is removed, unless a file of the cache has the hash under which the
    hub announced it: SHA-256, or Git's for small files. The cache names files by it.
    """
    blob = path.resolve()
    announced = blob.name
    if blob.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", announced):
        return
    with blob.open("rb") as file:
        if SHA256.fullmatch(announced):
            got = [hashlib.file_digest(file, "sha256").hexdigest()]
        else:
            content = file.read()
            header = f"blob {len(content)}\0".encode()
            got = [hashlib.sha1(start + content).hexdigest() for start in (header, b"")]
    if announced not in got:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ValueError(
            f"{path.name}: its hash is {got[0]}, but the hub announced {announced}. The file was "
            "removed; try again, and if that does not help, ask whoever published it"
        )


def require_sha256(path: Path, expected: str) -> str:
    """The SHA-256 of a file; ValueError unless it is the ``expected`` one, if that is not ""."""
    if expected and not SHA256.fullmatch(expected.lower()):
        raise ValueError(f"sha256: got {expected!r}, expected 64 hexadecimal digits")
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and got != expected.lower():
        raise ValueError(
            f"{path.name}: its SHA-256 is {got}, expected {expected.lower()}. It is another file "
            f"than the one that is meant, or damaged; it lies at {str(path)!r}"
        )
    return got


def is_repository(name: str) -> bool:
    """Whether a name has the form OWNER/NAME of a repository on the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def upload_folder(
    folder: Path,
    repository: str,
    *,
    message: str,
    private: bool = False,
    revision: str = "",
    token: str | None = None,
) -> str:
    """Upload a folder to a repository, which is made if there is none, as one commit; its address.

    Raises:
        OSError: the hub cannot be reached or refuses it. ValueError: no OWNER/NAME.
    """
    api = HfApi(token=token)
    with _in_one_line(f"{constants.ENDPOINT}/{repository}", f"Perhaps {LOG_IN}"):
        api.create_repo(repository, private=private, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=revision or None,
            delete_patterns=["files/*"],
        )
    return str(commit.commit_url)


@contextlib.contextmanager
def _in_one_line(what: str, advice: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into an OSError or ValueError of one line."""
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{what}: {_first_line(error)}") from error
    except GatedRepoError as error:
        problem = f"its owner asks for an agreement first. Give it in a browser, then {LOG_IN}"
        raise PermissionError(f"{what}: {problem}") from error
    except RepositoryNotFoundError as error:
        problem = f"no such repository. Check the name; for a private one {LOG_IN}"
        raise FileNotFoundError(f"{what}: {problem}") from error
    except RevisionNotFoundError as error:
        problem = "no such revision. Expected a branch, a tag or a commit of the repository"
        raise FileNotFoundError(f"{what}: {problem}") from error
    except LocalEntryNotFoundError as error:
        reason = _first_line(error.__cause__ or error)
        problem = f"not in the cache {constants.HF_HUB_CACHE}, and the hub was not reached"
        raise FileNotFoundError(f"{what}: {problem} ({reason}). {advice}") from error
    except EntryNotFoundError as error:
        raise FileNotFoundError(f"{what}: {_first_line(error)}. Is it the right name?") from error
    except LocalTokenNotFoundError as error:
        raise PermissionError(f"{what}: no token is on this machine; {LOG_IN}") from error
    except Exception as error:  # the network raises errors of many kinds
        raise OSError(f"{what}: the transfer failed ({_first_line(error)}). {advice}") from error


def _first_line(error: BaseException) -> str:
    """The name of an error and the beginning of its message."""
    text = " ".join(str(error).split())[:200].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
