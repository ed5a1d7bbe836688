"""The border to an object store: a root such as s3://bucket/sweeps, mirrored in a local folder.

All code works with local paths. Where the root is a URI, they lie in a mirror whose folder is named after the URI, so that
a process on any node knows from a path alone where a file belongs. Whoever finishes a file puts it, in one request, and a
folder's manifest or record last; whoever needs files of others gets them first. Stores have no rename and no append, and
need none: what is half-written stays in the mirror. With a root that is a folder every function here does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from catsweep.errors import StorageError
from catsweep.redact import has_credentials

MIRRORS = "catsweep-mirrors"
"""The folder of all mirrors of a machine: below CATSWEEP_MIRROR, else below the folder for temporary files."""
NOT_PULLED = ("checkpoint", "model", "logs")
"""Folders of a sweep that only the run itself needs."""
LINES = "steps.jsonl"
"""The file of a run to which its process appends."""
ATTEMPTS = 6
"""So often is a request tried; the pauses between are 0.5, 1, 2, 4 and 8 seconds."""
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(.*)")
_S3_OPTIONS = ("endpoint_override", "region", "scheme")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Where a path of a mirror lies on its store. uri: of the root, for people."""

    filesystem: Any
    path: str
    uri: str


def as_root(text: str) -> Path | None:
    """The local folder of a root that is a URI: its mirror, or the folder itself of file://; None for a plain path.

    A path that was a URI, s3:/bucket, is taken as one. Raises StorageError for credentials in a URI, which would end up in
    records and logs, and for a scheme that nobody knows.
    """
    found = _URI.fullmatch(text)
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return Path("/") / rest
    uri = f"{scheme}://{rest.rstrip('/')}"
    parts = urlsplit(uri)
    if "@" in parts.netloc or has_credentials(uri):
        raise StorageError(
            f"the root {scheme}://... holds credentials; expected them in the environment (AWS_ACCESS_KEY_ID and others) or in "
            "the role of the machines, on every node"
        )
    if not parts.netloc:
        raise StorageError(f"found {text!r} as root; expected {scheme}://BUCKET/FOLDER")
    _open(uri)
    base = Path(os.environ.get("CATSWEEP_MIRROR") or tempfile.gettempdir()).absolute()
    return base / MIRRORS / quote(uri, safe="").replace("%", "=")  # a percent sign would be decoded by others


def place_of(path: Path) -> Place | None:
    """Where a path of a mirror lies on its store; None for any other path."""
    parts = path.parts
    if MIRRORS not in parts or parts.index(MIRRORS) + 1 >= len(parts):
        return None
    at = parts.index(MIRRORS) + 1
    uri = unquote(parts[at].replace("=", "%"))
    filesystem, base = _open(uri)
    return Place(filesystem, "/".join([base, *parts[at + 1 :]]), uri)


def exists(path: Path) -> bool:
    """Whether a file is there: on the store, or in the folder of a root that is one."""
    place = place_of(path)
    if place is None:
        return path.exists()
    return bool(_info(place).type != fs.FileType.NotFound)


def put(path: Path) -> None:
    """Send a whole file to the store."""
    _send(path, lambda: path.open("rb"))


def put_bytes(path: Path, data: bytes) -> None:
    """Send the content of a file that was just written."""
    _send(path, functools.partial(io.BytesIO, data))


def read(path: Path) -> bytes | None:
    """The content of a file as it is on the store, where the mirror's copy is left alone; None where there is no file."""
    place = place_of(path)
    if place is None:
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes()
        return None

    def content() -> bytes | None:
        if place.filesystem.get_file_info(place.path).type != fs.FileType.File:
            return None
        with place.filesystem.open_input_stream(place.path) as stream:
            return bytes(stream.read())

    return _patiently(place, "read", content)


def put_folder(folder: Path, *, last: str | None = None) -> None:
    """Send every file of a folder; the one named `last` after all others are there."""
    if place_of(folder) is None:
        return
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _side_by_side(put, [path for path in files if path != folder / (last or "")])
    if last is not None:
        put(folder / last)


def get(path: Path) -> bool:
    """Bring a file as it is on the store; returns whether it is there. A file that is not there goes from the mirror."""
    place = place_of(path)
    if place is None:
        return path.exists()
    info = _info(place)
    if info.type != fs.FileType.File:
        path.unlink(missing_ok=True)
        return False
    return _bring(path, place, info)


def get_folder(folder: Path, *, skip: Iterable[str] = (), exact: bool = False) -> int:
    """Bring the files of a folder that the mirror lacks or has in another version; returns how many are on the store.

    skip: names of folders in it that stay where they are. exact: files of the mirror that are not on the store go.
    """
    place = place_of(folder)
    if place is None:
        return 0
    selector = fs.FileSelector(place.path, recursive=True, allow_not_found=True)
    found = _patiently(place, "listed", lambda: place.filesystem.get_file_info(selector))
    wanted: dict[Path, Any] = {}
    for info in found:
        name = info.path[len(place.path) :].lstrip("/")
        if info.type == fs.FileType.File and not set(name.split("/")[:-1]) & set(skip):
            wanted[folder / name] = info
    changed = [
        path
        for path, info in wanted.items()
        if not _is_same(path, info) and (path.with_name("record.json") in wanted or not _is_ahead(path, info))
    ]

    def bring(path: Path) -> None:
        _bring(path, Place(place.filesystem, wanted[path].path, place.uri), wanted[path])

    _side_by_side(bring, changed)
    if exact:
        for path in sorted(folder.rglob("*")):
            hidden = path.name.startswith(".") or set(path.relative_to(folder).parts[:-1]) & set(skip)
            if path.is_file() and path not in wanted and not hidden:
                path.unlink()
    return len(wanted)


def folders(root: Path) -> list[str]:
    """Names of the folders right below a root on an object store, `cache` left out; none where the root is a folder."""
    place = place_of(root)
    if place is None:
        return []
    selector = fs.FileSelector(place.path, allow_not_found=True)
    found = _patiently(place, "listed", lambda: place.filesystem.get_file_info(selector))
    names = [info.base_name for info in found if info.type == fs.FileType.Directory]
    return sorted(name for name in names if name != "cache")


def pull_sweep(root: Path, sweep: str, *, exact: bool = False) -> None:
    """Bring what the store has of a sweep: records, rows and results, without weights and checkpoints.

    exact: files of the mirror that are not on the store go; only for who holds the sweep, since a run on this machine may
    have files that it has not sent yet. Where nothing of the sweep is on the store, the mirror is of one that was removed, and
    goes as well: whoever runs a sweep has its file there.
    """
    folder = root / sweep
    num_files = get_folder(folder, skip=NOT_PULLED, exact=exact)
    if num_files == 0 and not exact and place_of(folder) is not None and folder.exists():
        get_folder(folder, exact=True)


def delete(path: Path) -> None:
    """Remove a file or a folder, from the store too; nothing where it is not there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    place = place_of(path)
    if place is None:
        return
    match _info(place).type:
        case fs.FileType.File:
            _patiently(place, "deleted", lambda: place.filesystem.delete_file(place.path))
        case fs.FileType.Directory:
            _patiently(place, "deleted", lambda: place.filesystem.delete_dir(place.path))
        case _:
            pass


@functools.lru_cache(maxsize=16)
def _open(uri: str) -> tuple[Any, str]:
    """A store and the root's path on it. Raises StorageError."""
    parts = urlsplit(uri)
    try:
        if parts.scheme == "s3":
            options: dict[str, Any] = dict(parse_qsl(parts.query))
            if unknown := sorted(set(options) - set(_S3_OPTIONS)):
                raise StorageError(
                    f"{uri}: found {', '.join(unknown)}; expected options among {', '.join(_S3_OPTIONS)}"
                )
            retries = fs.AwsStandardS3RetryStrategy(max_attempts=2)  # we are patient ourselves
            store = fs.S3FileSystem(**options, request_timeout=20, connect_timeout=5, retry_strategy=retries)
            return store, (parts.netloc + parts.path).rstrip("/")
        store, path = fs.FileSystem.from_uri(uri)
        return store, path.rstrip("/")
    except (OSError, ValueError, pa.ArrowException) as error:
        known = "a folder, s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or another URI that pyarrow opens"
        raise StorageError(f"the root {uri} cannot be opened ({error}); expected {known}") from None


def _info(place: Place) -> Any:
    return _patiently(place, "looked up", lambda: place.filesystem.get_file_info(place.path))


def _is_same(path: Path, info: Any) -> bool:
    """Whether the mirror has this version of a file: `_download` gave it the time that it has on the store.

    Stores tell whole seconds: what came within two of its time may have been replaced since, and is not trusted.
    """
    if not path.exists() or info.mtime_ns is None:
        return False
    facts = path.stat()
    is_old = facts.st_ctime_ns - info.mtime_ns > 2_000_000_000
    return bool(facts.st_size == info.size and facts.st_mtime_ns == info.mtime_ns and is_old)


def _is_ahead(path: Path, info: Any) -> bool:
    """Whether the mirror has lines of a run on this machine that were not sent yet. (With a record on the store the run has
    ended, and they are of another one.)"""
    return path.name == LINES and path.exists() and path.stat().st_size > info.size


def _send(path: Path, source: Callable[[], BinaryIO]) -> None:
    """In a thread: a signal to the main thread, which would publish half a file, waits until it is sent."""
    if (place := place_of(path)) is not None:
        _side_by_side(lambda _: _patiently(place, "written", functools.partial(_upload, source, place)), [path])


def _upload(source: Callable[[], BinaryIO], place: Place) -> None:
    """A stream that breaks off leaves nothing, or a file whose hash is not the one that its manifest or record names."""
    with source() as file:
        _write(file, place)


def _write(file: BinaryIO, place: Place) -> None:
    if place.filesystem.type_name not in ("s3", "gcs"):  # others have folders
        place.filesystem.create_dir(place.path.rsplit("/", 1)[0], recursive=True)
    stream = place.filesystem.open_output_stream(place.path)
    while block := file.read(8 << 20):
        stream.write(block)
    stream.close()


def _bring(path: Path, place: Place, info: Any) -> bool:
    """Bring a file of which this is known; returns whether it was there. Where another version lies there meanwhile, or none,
    the next attempt asks anew."""
    known = [info]

    def attempt() -> bool:
        found = known.pop() if known else place.filesystem.get_file_info(place.path)
        if found.type == fs.FileType.File:
            _download(path, place, found)
        return bool(found.type == fs.FileType.File)

    return _patiently(place, "read", attempt)


def _download(path: Path, place: Place, info: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            with place.filesystem.open_input_stream(place.path) as stream:
                shutil.copyfileobj(stream, file, 8 << 20)
            file.flush()
            if file.tell() != info.size:
                raise OSError(f"{file.tell()} of {info.size} bytes came")
            if info.mtime_ns is not None:
                os.utime(file.name, ns=(info.mtime_ns, info.mtime_ns))
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _patiently(place: Place, done: str, action: Callable[[], Result]) -> Result:
    """The result of a request, tried again where the connection breaks or the store does not answer. Raises StorageError."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            if attempt == ATTEMPTS - 1:
                raise StorageError(
                    f"{place.path} on {place.uri} could not be {done} in {ATTEMPTS} attempts ({error}). Nothing that was "
                    "finished is lost: see that the store can be reached and written to, and run the same command again"
                ) from error
            time.sleep(0.5 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _side_by_side(action: Callable[[Path], None], paths: list[Path]) -> None:
    """The action on every path, some at once; the first error travels on."""
    if paths:
        with ThreadPoolExecutor(min(16, len(paths))) as pool:
            list(pool.map(action, paths))
