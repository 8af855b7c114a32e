"""Files of a bill, wherever they lie: listed, read in batches of columns, and their errors told apart."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from pydantic import Field, SecretStr

from curb.connectors.bills.cells.csv_text import HEAD_BYTES, OddRows, batches, encoding_of, shape_of
from curb.connectors.bills.fsspec import open_store
from curb.connectors.bills.guard import Unusable
from curb.connectors.decode import Rejected
from curb.stream.errors import PermanentError, TransientError
from curb.stream.settings import Settings

#: Arrow's own allocator keeps a hundred MiB of what was freed; the system's is as quick here.
pa.set_memory_pool(pa.system_memory_pool())
BATCH_ROWS = 32_768
_BLOCK_BYTES = 4 * 1024 * 1024
_TEXT_SUFFIXES = (".csv", ".csv.gz", ".gz", ".csv.zip", ".zip")
#: Picks columns of those that there are; called with the number of an odd row, from 1, and why it is refused.
Choose = Callable[[Sequence[str]], Sequence[str]]
OnBad = Callable[[int, Rejected], None]
#: What libraries say of a file that ends too early, or whose end is of another one.
_CUT = re.compile(
    r"truncated|magic|corrupt|footer|unexpected end|incorrect header|invalid (block|code|distance|stored|literal)", re.I
)
#: What object stores say when asking again with the same credentials cannot help.
_REFUSED = re.compile(
    r"access.?denied|forbidden|unauthorized|no.?such.?bucket|bucket.?not.?found|invalid.?access.?key|signature|"
    r"expired.?token|credentials|permission.?denied|authorization|authentication|container.?not.?found|"
    r"HTTP (status )?40[13]\b",
    re.IGNORECASE,
)
#: The last word in brackets; those of Japanese and Chinese are wider.
_IN_PARENTHESES = re.compile(r"[(\[\uff08\u3010]([^()\[\]\uff08\uff09\u3010\u3011]+)[)\]\uff09\u3011]\s*$")
_GOOGLE, _AZURE = ("gs", "gcs"), ("abfs", "abfss", "az")
_PYARROW_SCHEMES = ("", "file", "s3", *_GOOGLE, "abfs", "abfss")


def ignored(_number: int, _rejected: Rejected) -> None:
    """Nobody counts the odd rows of a file that is only tried."""


class Storage(Settings):
    """How files are reached. What is not given comes from the environment, as the cloud's own tools find it."""

    region: str = Field(default="", description="Region of an S3 bucket; looked up when not given.")
    endpoint_url: str = Field(default="", description="Another S3 service than AWS, such as http://minio:9000.")
    access_key_id: str = Field(default="", description="Static S3 credentials, where there is no role.")
    secret_access_key: SecretStr = Field(default=SecretStr(""), description="Its secret.")
    role_arn: str = Field(default="", description="AWS role to assume for reading.")
    external_id: str = Field(default="", description="External id the role asks for.")
    options: dict[str, Any] = Field(
        default={}, description="For any other scheme, such as az:// or sftp://: options of its fsspec file system."
    )


class BillFile(NamedTuple):
    """One file: its path within the file system, bytes, and when it was written (epoch seconds)."""

    path: str
    size: int
    modified: float


class NotWholeError(TransientError):
    """A file that ends too early or is damaged: on its way when it is new, and broken when it is not."""


class BillFiles:
    """The files under one URL: s3://, gs://, abfss://, a path on disk, or any scheme that fsspec knows, such as az://.

    Methods raise TransientError for what may work later and PermanentError for what somebody has to change; both name
    the file.
    """

    def __init__(self, url: str, storage: Storage) -> None:
        self.url = url
        self._storage = storage
        self._opened: tuple[pa.fs.FileSystem, str] | None = None

    @property
    def local(self) -> bool:
        """Whether the files lie on disk, where a file may be seen half-written."""
        return _scheme(self.url) in ("", "file")

    @property
    def permissions(self) -> tuple[str, str]:
        """What is needed to list and to read, in the store's own words; empty where it has none."""
        scheme = _scheme(self.url)
        if scheme == "s3":
            return "s3:ListBucket", "s3:GetObject"
        if scheme in _GOOGLE:
            return "storage.objects.list", "storage.objects.get"
        return ("Storage Blob Data Reader",) * 2 if scheme in _AZURE else ("", "")

    @property
    def root(self) -> str:
        """The URL's path, as paths of files begin."""
        return self._open()[1]

    def list(self) -> list[BillFile]:
        """Every file at or under the URL, by path; a URL with `*` lists what lies under the folder before it."""
        with reading(self.url):
            system, root = self._open()
            whole = root.split("*")[0]
            at = whole if whole == root else whole.rpartition("/")[0]
            info = system.get_file_info(at)
            if info.type == pa.fs.FileType.File:
                found = [info]
            elif info.type == pa.fs.FileType.NotFound:
                self._look_for_bucket(system, at)
                found = []
            else:
                found = system.get_file_info(pa.fs.FileSelector(at, recursive=True))
            files = [BillFile(each.path, each.size, (each.mtime_ns or 0) / 1e9) for each in found if each.is_file]
            pattern = _glob(root)
            return sorted(file for file in files if whole == root or pattern.fullmatch(file.path))

    def _look_for_bucket(self, system: pa.fs.FileSystem, path: str) -> None:
        """Nothing under a prefix is nothing yet; no bucket is a mistake."""
        bucket = path[: path.find("/", 1)] if "/" in path[1:] else path
        if not self.local and system.get_file_info(bucket).type == pa.fs.FileType.NotFound:
            raise PermanentError(f"{self.url}: there is no {bucket}, or it may not be listed")

    def find(self, path: str) -> BillFile | None:
        """The file at `path`, or None."""
        with reading(path):
            info = self._open()[0].get_file_info(path)
            return BillFile(path, info.size, (info.mtime_ns or 0) / 1e9) if info.is_file else None

    def etag(self, path: str) -> str:
        """What the store calls the content that a file has now; empty where it has no such name."""
        system = self._open()[0]
        with reading(path):
            if isinstance(system, pa.fs.PyFileSystem):
                return str(system.handler.etag(path))
            if self.local:
                return ""
            with system.open_input_stream(path, compression=None) as stream:
                found = {name.casefold(): value for name, value in (stream.metadata() or {}).items()}
        return bytes(found.get("etag", b"")).decode("latin-1")

    def within(self, url: str) -> str:
        """The path of another file of the same store that is named by its URL or key."""
        return _path_of(url) if "://" in url else f"{self.root.split('/', maxsplit=1)[0]}/{url}"

    def bytes_of(self, path: str) -> bytes:
        """A small file, whole."""
        with reading(path), self._open()[0].open_input_stream(path) as stream:
            return bytes(stream.read())

    def batches(self, path: str, choose: Choose, on_bad: OnBad = ignored) -> Iterator[pa.RecordBatch]:
        """The columns that `choose` picks of those that there are, in batches of some 10,000 rows.

        Columns of text in Parquet come dictionary-encoded; all columns of CSV come as text. `choose` may raise. Rows
        that cannot be cut into columns go to `on_bad` with their number, from 1.
        """
        with reading(path):
            if path.endswith(".parquet") or (path.endswith(_TEXT_SUFFIXES) and self._magic(path) == b"PAR1"):
                yield from self._parquet(path, choose)
            elif path.endswith(_TEXT_SUFFIXES):
                yield from self._csv(path, choose, on_bad)
            else:
                raise Unusable(f"{path}: only .parquet, {', '.join(_TEXT_SUFFIXES)} can be read")

    def _parquet(self, path: str, choose: Choose) -> Iterator[pa.RecordBatch]:
        system = self._open()[0]
        with system.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            wanted = list(choose(file.schema_arrow.names))
            texts = [name for name in wanted if pa.types.is_string(file.schema_arrow.field(name).type)]
            file = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=texts)
            yield from file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False)

    def _csv(self, path: str, choose: Choose, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
        with self._text(path) as source:
            shape = shape_of(source.read(HEAD_BYTES))
        wanted = list(choose(shape.names))
        if shape.encoding == "utf-8":
            with self._text(path) as source:  # Arrow stops at the first odd byte, so all are looked at before
                shape = shape._replace(encoding=encoding_of(iter(lambda: bytes(source.read(_BLOCK_BYTES)), b"")))
        odd = OddRows()
        with self._text(path) as source:
            yield from batches(source, shape, wanted, odd)
        for number, rejected in odd.rejected:
            on_bad(number - shape.skip_lines, rejected)
        if shape.encoding == "cp1252":
            on_bad(0, Rejected("not_utf8", "texts that are not UTF-8 are read as Windows-1252; their lines count"))

    def _magic(self, path: str) -> bytes:
        with self._open()[0].open_input_stream(path, compression=None) as source:
            return bytes(source.read(4))

    @contextmanager
    def _text(self, path: str) -> Iterator[Any]:
        """The bytes of a text file, unpacked whatever its name says: gzip and zip are known by how they begin."""
        system, magic = self._open()[0], self._magic(path)
        if magic == b"PK\x03\x04":
            with system.open_input_file(path) as packed, _members(path, packed) as member:
                yield pa.PythonFile(member, mode="r")
            return
        compression = "gzip" if magic[:2] == b"\x1f\x8b" else None
        with system.open_input_stream(path, compression=compression) as source:
            yield source

    def _open(self) -> tuple[pa.fs.FileSystem, str]:
        if self._opened is None:
            with reading(self.url):
                if _scheme(self.url) in _PYARROW_SCHEMES:
                    self._opened = self._file_system(), _path_of(self.url)
                else:
                    self._opened = open_store(self.url, self._storage.options)
        return self._opened

    def _file_system(self) -> pa.fs.FileSystem:
        scheme = _scheme(self.url)
        if scheme == "s3":
            return self._s3()
        if scheme in ("", "file"):
            return pa.fs.LocalFileSystem()
        return pa.fs.FileSystem.from_uri(self.url.split("*")[0].replace("gcs://", "gs://"))[0]

    def _s3(self) -> pa.fs.FileSystem:
        of, known = self._storage, dict[str, Any]()
        if of.endpoint_url:
            url = urlsplit(of.endpoint_url)
            known |= {"endpoint_override": url.netloc, "scheme": url.scheme, "force_virtual_addressing": False}
        if of.access_key_id:
            known |= {"access_key": of.access_key_id, "secret_key": of.secret_access_key.get_secret_value()}
        if of.role_arn:
            known |= {"role_arn": of.role_arn, "external_id": of.external_id or None, "session_name": "curb"}
        bucket = _path_of(self.url).split("/", maxsplit=1)[0]
        region = of.region or ("us-east-1" if of.endpoint_url else pa.fs.resolve_s3_region(bucket))
        retry = pa.fs.AwsStandardS3RetryStrategy(max_attempts=1)
        return pa.fs.S3FileSystem(region=region, retry_strategy=retry, connect_timeout=10, request_timeout=60, **known)


@contextmanager
def _members(path: str, packed: Any) -> Iterator[Any]:
    """The one file in an archive."""
    try:
        with zipfile.ZipFile(packed) as archive:
            names = [each for each in archive.namelist() if not each.endswith("/")]
            if len(names) != 1:
                raise Unusable(f"{path}: an archive of {len(names)} files; only one can be read")
            with archive.open(names[0]) as member:
                yield member
    except zipfile.BadZipFile as error:
        raise NotWholeError(f"{path}: {error}; it may still be on its way") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Errors of files as the runner knows them. A file that cannot be read to its end may still be on its way."""
    try:
        yield
    except FileNotFoundError as error:
        raise TransientError(f"{what}: not there (any more)") from error
    except PermissionError as error:
        raise PermanentError(f"{what}: permission denied") from error
    except (OSError, pa.ArrowException) as error:
        text = " ".join(str(error).split())[:300]
        if _REFUSED.search(text):
            raise PermanentError(f"{what}: {text}") from error
        if _CUT.search(text):
            raise NotWholeError(f"{what}: {text}; it may still be on its way") from error
        raise TransientError(f"{what}: {text}") from error


def _scheme(url: str) -> str:
    return url.split("://", maxsplit=1)[0].lower() if "://" in url else ""


def _path_of(url: str) -> str:
    """The path within its file system: bucket and key for s3://, container and path for abfss://."""
    if "://" not in url:
        return url.rstrip("/") or "/"
    scheme, _, rest = url.partition("://")
    if scheme in ("abfs", "abfss") and "@" in rest.split("/", maxsplit=1)[0]:
        container, _, behind = rest.partition("@")
        rest = f"{container}/{behind.partition('/')[2]}"
    return rest.rstrip("/") or "/"


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` within a folder, `**` across folders."""
    parts = re.split(r"(\*\*/?|\*)", pattern)
    return re.compile("".join(".*" if p.startswith("**") else "[^/]*" if p == "*" else re.escape(p) for p in parts))


def canonical(name: str) -> str:
    """A column's name without case and separators: lineItem/UsageType and line_item_usage_type are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def spellings(name: str) -> list[str]:
    """What a column may be called: its name, and one in parentheses, as localised exports of Azure have it."""
    behind = _IN_PARENTHESES.search(name)
    return [canonical(name), *([canonical(behind[1])] if behind else [])]
