"""Any store that fsspec knows, as a file system of Arrow: listed afresh each time, with times of writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pyarrow.fs

from curb.stream.errors import PermanentError

#: Where stores put the time a file was written.
_TIMES = ("mtime", "last_modified", "LastModified", "updated", "modified", "created")


def open_store(url: str, options: Mapping[str, Any]) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URL, and the path in it. Raises PermanentError when fsspec cannot reach it."""
    try:
        from fsspec.core import url_to_fs

        with _own_errors():
            store, path = url_to_fs(url, **options)
    except (ImportError, TypeError, ValueError) as error:
        raise PermanentError(f"{url}: {error}") from error
    return pyarrow.fs.PyFileSystem(_Store(store)), path.rstrip("/") or "/"


class _Store(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]
    """For a process that runs for months: fsspec remembers listings, and each store names times in its own way."""

    def get_file_info(self, paths: Sequence[str]) -> list[pyarrow.fs.FileInfo]:
        with _own_errors():
            self.fs.invalidate_cache()
            found = []
            for path in paths:
                try:
                    found.append(_info(path, self.fs.info(path)))
                except FileNotFoundError:
                    found.append(pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.NotFound))
            return found

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        with _own_errors():
            self.fs.invalidate_cache()
            depth = None if selector.recursive else 1
            found = self.fs.find(selector.base_dir, maxdepth=depth, detail=True)
            return [_info(path, info) for path, info in found.items()]

    def etag(self, path: str) -> str:
        """What the store calls the content that a file has now; empty where it has no such name."""
        with _own_errors():
            self.fs.invalidate_cache()
            info = self.fs.info(path)
        return str(info.get("etag") or info.get("ETag") or "")

    def open_input_stream(self, path: str) -> Any:
        with _own_errors():
            return super().open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        with _own_errors():
            return super().open_input_file(path)


def _info(path: str, info: Mapping[str, Any]) -> pyarrow.fs.FileInfo:
    if info["type"] != "file":
        return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.Directory)
    at = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    if isinstance(at, datetime):
        at = at.timestamp()
    # Listed and asked for alone, a time may come in different types; what is left of both is the same.
    mtime = None if at is None else round(at, 3)
    return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File, size=info["size"], mtime=mtime)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Errors of Azure's library, which adlfs lets through, as the errors of files."""
    try:
        from azure.core.exceptions import AzureError
    except ImportError:
        yield
        return
    try:
        yield
    except AzureError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
