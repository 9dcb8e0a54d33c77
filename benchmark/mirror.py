"""Results at a URL, where machines share no file system: a local folder and the URL are kept alike.

Everything reads and writes the local folder. What the URL has is fetched before it is needed, and each
finished file is put there whole, so that records are the same to the byte wherever they are made.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from robustness_bench.benchmark.errors import BenchError, StoreError, first_line
from robustness_bench.benchmark.files import cache_home, write_atomic, write_json

_FOLDER, _STATE, _LOCK = "remote", ".mirror.json", ".mirror.lock"
_UNFINISHED = ".partial"
# What file systems tell of a file from which another content can be told.
_TELLING = {"size", "etag", "mtime", "lastmodified", "last_modified", "updated", "created", "md5hash"}


def local_folder(out: str | Path) -> Path:
    """Return the folder of results: ``out`` itself, or the local one of a URL, which its name holds."""
    text = str(out)  # some versions of typer convert the default, too, which is a path
    return cache_home() / _FOLDER / quote(text.rstrip("/"), safe="") if "://" in text else Path(out)


def place(folder: Path) -> str:
    """Return what a user calls a folder of results: its URL, or its path."""
    url = unquote(folder.name)
    return url if folder.parent.name == _FOLDER and "://" in url else str(folder)


def mirror_of(folder: Path) -> "Mirror | None":
    """Return the mirror of a folder of results; None if it is just a folder."""
    url = place(folder)
    return Mirror(url, folder) if "://" in url else None


@contextmanager
def mirrored(folder: Path) -> Iterator[None]:
    """Fetch what a URL has before the block, and make it the same as the folder after it, however it ends."""
    mirror = mirror_of(folder)
    if mirror is None:
        yield
        return
    mirror.pull()
    try:
        yield
    finally:
        mirror.push()


class Mirror:
    """A local folder, and the files at a URL.

    A file is known by its size and time here, and by what the URL's file system tells of it there; what has
    changed on one side since both were alike is copied to the other. Hidden files stay here.

    Raises:
        BenchError: no file system for such URLs.
    """

    def __init__(self, url: str, folder: Path) -> None:
        import fsspec

        self.folder = folder
        try:
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise BenchError(f"--out {url}: {error}") from error
        self._url = url

    def pull(self) -> None:
        """Fetch each file that is new or has changed at the URL."""
        with self._telling("read"):
            if self._files.isfile(self._root):
                raise BenchError(f"{self._url} is a file: name the URL of a folder of results")
            self._renew(self._found())

    def push(self) -> None:
        """Put each file there that is new or has changed here, and delete what has been deleted here."""
        known, alike = self._known(), {}
        with self._telling("write to"):
            stamps = {self._name_here(file): _stamp(file) for file in self._here()}
            new = [name for name, stamp in stamps.items() if known.get(name, {}).get("here") != stamp]
            for name in new:
                self._put(self.folder / name)
            gone = [name for name in known if not (self.folder / name).is_file()]
            # Marks are always those of a listing: some file systems tell of a single file in another way.
            there = {name: _mark(info) for name, info in self._found().items()} if new or gone else {}
            alike = {name: {"here": stamps[name], "there": there.get(name, "")} for name in new}
            for name in gone:  # else it would be fetched again; but what another has put there since stays
                if there.get(name) == known[name]["there"]:
                    self._files.rm_file(self._there(name))
        self._keep(alike, gone)

    def _found(self) -> dict[str, dict[str, Any]]:
        """Return what the URL's file system tells of every file there, by name."""
        if not self._files.exists(self._root):
            return {}
        return {self._name(path): info for path, info in self._files.find(self._root, detail=True).items()}

    def fetch(self, results: Iterable[Path]) -> None:
        """Fetch what is not here or has changed there of some results, and of what is finished of them.

        Args:
            results: their paths in the folder; files that begin with their stem belong to them.
        """
        with self._telling("read"):
            for result in results:
                self._renew(self._of(result), rows=True)

    def _renew(self, found: dict[str, dict[str, Any]], *, rows: bool = False) -> None:
        """Get each of these files that is not here or has changed there.

        Args:
            rows: of finished rows, get those of which there are more than here.
        """
        known, alike = self._known(), {}
        for name, info in found.items():
            mark, file = _mark(info), self.folder / name
            if not file.is_file():
                old = True
            elif rows and name.endswith(_UNFINISHED):
                old = file.stat().st_size < info["size"]
            else:
                old = known.get(name, {}).get("there") != mark
            if old:
                write_atomic(file, self._files.cat_file(self._there(name)))
                alike[name] = {"here": _stamp(file), "there": mark}
        self._keep(alike)

    def put(self, result: Path, *, whole: bool) -> None:
        """Put all files of a result there.

        Args:
            whole: it is not the shard of one, so that finished rows that are gone here can go there too.
        """
        with self._telling("write to"):
            here = {file: _stamp(file) for file in self._here() if file.name.startswith(result.stem)}
            # The result itself, or its card, last: where it is, all of it is.
            for file in sorted(here, key=lambda file: (file.stem == result.stem, file.suffix == ".json")):
                self._put(file)
            stamps = {self._name_here(file): stamp for file, stamp in here.items()}
            there = self._of(result)
            for name in there if whole else ():
                if name.endswith(_UNFINISHED) and name not in stamps:
                    self._files.rm_file(self._there(name))
        both = stamps.keys() & there.keys()
        self._keep({name: {"here": stamps[name], "there": _mark(there[name])} for name in both})

    def _of(self, result: Path) -> dict[str, dict[str, Any]]:
        """Return what the URL's file system tells of the files of a result, by name."""
        folder = self._there(result.parent.as_posix())
        if not self._files.exists(folder):
            return {}
        found = {self._name(info["name"]): info for info in self._files.ls(folder, detail=True)}
        return {name: info for name, info in found.items() if Path(name).name.startswith(result.stem)}

    def _put(self, file: Path) -> None:
        there = self._there(self._name_here(file))
        self._files.makedirs(there.rpartition("/")[0], exist_ok=True)
        with self._files.transaction, self._files.open(there, "wb") as target:  # seen whole or not at all
            target.write(file.read_bytes())

    def _there(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, there: str) -> str:
        name = there.removeprefix(self._root).lstrip("/")
        if ".." in name.split("/"):  # a bucket's names are no paths, and others may write into it
            raise StoreError(f"{self._url} has a file {name!a}, which would lie outside: delete it there")
        return name

    def _name_here(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _here(self) -> list[Path]:
        """Return the local files, without hidden ones."""
        files = (file for file in self.folder.rglob("*") if file.is_file())
        return sorted(
            f for f in files if not self._name_here(f).startswith(".") and "/." not in self._name_here(f)
        )

    def _known(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads((self.folder / _STATE).read_text())
            return known
        except (OSError, ValueError):
            return {}  # all is compared anew

    def _keep(self, alike: dict[str, Any], gone: Iterable[str] = ()) -> None:
        """Note which files are alike on both sides now; workers on one machine share the note."""
        if not alike and not gone:
            return
        with (self.folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._known() | alike
            write_json(self.folder / _STATE, {name: known[name] for name in known.keys() - set(gone)})

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """A file system's error is told in a line. Each has its own kinds, which have no base in common."""
        try:
            yield
        except BenchError:
            raise
        except Exception as error:
            raise StoreError(
                f"cannot {what} {self._url}: {first_line(error)}; finished tasks are kept, run the same "
                "command again"
            ) from error


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _mark(info: dict[str, Any]) -> str:
    """Return what tells one content of a remote file from another."""
    said = {key: str(value) for key, value in info.items() if key.lower() in _TELLING}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
