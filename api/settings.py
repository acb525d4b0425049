"""Settings by concern. Built in `api/app.py` and `api/cli.py` only, and handed down as plain values."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.scenes.hosts import PUBLISHED

Scope = Literal["read", "write", "embed", "admin"]
"""What a key may do. `write` saves queries and bases, `embed` runs encoders and stores what they make."""

KEY_HEADER: Final = "X-API-Key"
"""What a key is sent in."""

Network = IPv4Network | IPv6Network

_SERVER: Final = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")

_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}: ?[\x21-\x7e][\x20-\x7e]{0,8000}")


def split_commas(value: object) -> object:
    """A list as it stands in an environment variable."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class ApiKey(BaseModel, frozen=True):
    """One key as it is configured: never the key itself."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, hex")
    scopes: frozenset[Scope]

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Read `sha256hex:read+embed`."""
        digest, _, scopes = text.strip().partition(":")
        unknown = set(scopes.split("+")) - set(get_args(Scope))
        if unknown or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ValueError(
                "write each key as <SHA-256 of the key, hex>:<scope>+<scope>, scopes read write embed admin"
            )
        return cls(digest=digest, scopes=frozenset(scopes.split("+")))

    def matches(self, key: str) -> bool:
        """Whether `key` is this key; takes the same time whether it is or not."""
        return hmac.compare_digest(sha256(key.encode()).hexdigest(), self.digest)


class Limits(BaseModel, frozen=True):
    """The most that one request may ask for."""

    body_bytes: int = Field(256_000_000, gt=0, description="size of a request body")
    json_bytes: int = Field(32_000_000, gt=0, description="size of time series sent as JSON")
    question_bytes: int = Field(4_000_000, gt=0, description="size of any other JSON request body")
    unpacked_bytes: int = Field(2_000_000_000, gt=0, description="size of an upload once unpacked")
    upload_pixels: int = Field(262_144, gt=0, description="pixels in one upload")
    table_rows: int = Field(10_000_000, gt=0, description="observations in one upload of a table")
    json_pixels: int = Field(1_000, gt=0, description="pixels in one JSON upload")
    points: int = Field(10_000, gt=0, description="points in one request for vectors")
    polygon_pixels: int = Field(
        10_000_000, gt=0, description="pixels of 10 m in the polygons of one request for vectors"
    )
    seconds: int = Field(30, gt=0, description="time that one request may read for; else it gets 503")
    hits: int = Field(1_000, gt=0, description="k of a search")
    job_blocks: int = Field(1024, gt=0, description="blocks of 2.56 km in one job")
    key_jobs: int = Field(8, gt=0, description="jobs of one API key that wait or run at once; more get 503")
    key_pixels: int = Field(
        200_000_000, gt=0, description="pixels in the jobs of one API key that wait or run; more get 503"
    )
    jobs_waiting: int = Field(32, gt=0, description="jobs that wait or run at once; more get 503")
    job_listeners: int = Field(64, gt=0, description="open streams of /jobs/{id}/events; more get 503")
    uploads_at_once: int = Field(64, gt=0, description="uploads taken in, encoded and answered at once; more get 503")
    scratch_bytes: int = Field(
        4_000_000_000, gt=0, description="size of all uploads and answers at once, unpacked; more get 503"
    )
    large_uploads_at_once: int = Field(2, gt=0, description="uploads of over 8 MB encoded at once; others wait")
    encoder_wait: int = Field(30, gt=0, description="seconds others may keep an upload waiting; else it gets 503")


class Caches(BaseModel, frozen=True):
    """How much is kept of what was read and made; 0 keeps nothing."""

    chunk_bytes: int = Field(512_000_000, ge=0, description="memory for stored vectors that were read")
    tile_bytes: int = Field(128_000_000, ge=0, description="memory for finished tiles")
    disk_bytes: int = Field(
        10_000_000_000, ge=0, description="disk under SMALTI_HOME for what was read from far stores"
    )


class Fleet(BaseModel, frozen=True):
    """Servers that share the indexes of the same storage, each holding some of their shards."""

    peers: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses of the other servers, http://name:port, comma separated; its own may be among them"
    )
    shards: str = Field(
        "all",
        pattern=r"^(all|none|[0-9]{1,4}/[0-9]{1,4})$",
        description="which shards of each index this server holds: all, none, or for example 0/3, the first of three "
        "shares",
    )
    key: SecretStr | None = Field(
        None, description="API key that the peers want, with the scope read, where they have keys"
    )
    seconds: float = Field(
        5.0, gt=0, le=60, description="time a peer has to answer; then its shards are missing from the answer"
    )

    @field_validator("peers", mode="before")
    @classmethod
    def _split_peers(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("peers")
    @classmethod
    def _are_servers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SERVER.fullmatch(peer) for peer in value):  # not repeated: it may hold a password
            raise ValueError("write each peer as http://name:port or https://name:port, and nothing else")
        return value

    @field_validator("shards")
    @classmethod
    def _is_a_share(cls, value: str) -> str:
        part, slash, of = value.partition("/")
        if slash and not int(part) < int(of):
            raise ValueError("count the shares from 0: 0/3, 1/3 and 2/3 are the three")
        return value


class Scenes(BaseModel, frozen=True):
    """Whom scenes may be fetched from, what they are told, and how much of it."""

    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        PUBLISHED,
        description="hosts of catalogues and scenes, comma separated: name or *.domain, asked over https at public "
        "addresses only; or written out, http://10.0.0.5:8080, to mean just that. Absent: those of the published modes",
    )
    folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="folders on this machine whose catalogues, scenes and d-pixels may be read, comma separated"
    )
    earthdata_token: SecretStr | None = Field(None, description="bearer token of NASA Earthdata, for OPERA's scenes")
    planetary_computer_key: SecretStr | None = Field(None, description="subscription key of Planetary Computer")
    headers: dict[str, SecretStr] = Field(
        {}, description='any other token, as JSON: {"stac.example.org": "Authorization: Bearer ..."}, by host'
    )
    items: int = Field(50_000, gt=0, description="scenes in the answer to one question")
    pages: int = Field(1_000, gt=0, description="pages that are read for it")
    page_bytes: int = Field(64_000_000, gt=0, description="size of a page of a catalogue, unpacked")
    catalogue_bytes: int = Field(1_000_000_000, gt=0, description="size of all pages read for one question")
    catalogue_seconds: float = Field(300, gt=0, description="time that one question may take")
    file_bytes: int = Field(4_000_000_000, gt=0, description="size of one file of a scene")
    tile_bytes: int = Field(
        64_000_000, gt=0, description="size of a file's tiles, unpacked; files without tiles may be no larger"
    )
    block_bytes: int = Field(16_000_000_000, gt=0, description="what may be fetched for one block of 2.56 km")
    block_seconds: float = Field(3600, gt=0, description="time that fetching it may take")
    request_seconds: float = Field(60, gt=0, description="time that one request may take")
    retries: int = Field(4, ge=0, le=20, description="how often a request is repeated that failed")

    @field_validator("hosts", "folders", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_SERVER.fullmatch(name) or _HOST.fullmatch(name) for name in value):
            raise ValueError("write each host as name, *.domain or http://name:port, and nothing else")
        return tuple(name.lower().rstrip("/") for name in value)

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, text in value.items():
            if not (_SERVER.fullmatch(name) or _HOST.fullmatch(name)):
                raise ValueError("write each host as name, *.domain or http://name:port, and nothing else")
            if not _HEADER.fullmatch(text.get_secret_value()):  # not repeated: it is a secret
                raise ValueError(f"write what {name} is told as Name: value")
        return value


class Settings(BaseSettings):
    """Everything an operator can set, from the environment as SMALTI_<NAME> (`SMALTI_LIMITS__POINTS=500`)."""

    model_config = SettingsConfigDict(
        env_prefix="SMALTI_", env_nested_delimiter="__", frozen=True, extra="ignore", populate_by_name=True
    )

    home: Path = Field(Path("smalti-data"), description="where what can be lost lies, and all state if not told else")
    storage: str = Field(
        "",
        description="where datasets, queries, bases and indexes lie: a folder, or s3://bucket/prefix reached by the "
        "usual AWS_* variables; absent: SMALTI_HOME",
    )
    anonymous: bool = Field(
        False, validation_alias="AWS_SKIP_SIGNATURE", description="whether buckets are read without credentials"
    )
    catalogue: Path = Field(Path("smalti.toml"), description="datasets that lie elsewhere; written by people")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    shutdown_seconds: int = Field(3, ge=0, description="how long requests under way may take once told to stop")
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(
        (),
        description="SHA256:SCOPE+SCOPE, comma separated; none: what writes or is expensive answers on loopback only",
    )
    local_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="addresses that count as this machine besides loopback, comma separated: a container's gateway"
    )
    public_read: bool = Field(True, description="whether reading needs no key even where keys are configured")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names this server answers to besides loopback, comma separated; * for any"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="origins whose pages may read (GET) from here, comma separated"
    )
    device: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        "auto",
        description="what encoders run on; fails if it is not there. auto: the first of cuda, cpu and openvino that is",
    )
    precision: Literal["fp32", "fp16"] = Field(
        "fp32",
        description="what encoders compute in; fp16 needs a device that has it, and fails elsewhere; a worker refuses "
        "jobs of a server that has another",
    )
    public_metrics: bool = Field(False, description="whether GET /metrics needs neither this machine nor an admin key")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="form of the log on stderr; auto: text on a terminal, JSON lines elsewhere"
    )
    log_level: Literal["auto", "debug", "info", "warning", "error"] = Field(
        "auto", description="least that is logged; auto: warning as text, info (each request) as JSON"
    )
    otel: bool | None = Field(
        None, description="whether to send traces to OpenTelemetry; if not set: where OTEL_EXPORTER_OTLP_ENDPOINT is"
    )
    encoder_threads: int = Field(0, ge=0, description="threads of an encoder; 0: one a core")
    blocks_at_once: int = Field(
        3,
        ge=1,
        le=64,
        description="blocks a worker has in hand: read, encoded, written side by side; more for far scenes or a GPU",
    )
    encoders_open: int = Field(
        4, ge=1, description="encoders that stay in memory; of more, the one unused for longest is closed"
    )
    basemap: str = Field(
        "",
        pattern=r"^(|https?://[a-z0-9.:-]+(/[^\s\"'<>;,]*)?)$",
        description="map the page shows under the data: https://.../{z}/{x}/{y}.png; none: coastlines of our own",
    )
    basemap_attribution: str = Field("", max_length=300, description="whose map it is; the page shows it")
    jobs_database: SecretStr | None = Field(
        None,
        description="where jobs are kept: postgresql://user:password@host/name, or sqlite:///path; "
        "absent: a SQLite file in SMALTI_HOME",
    )
    worker_lapse: float = Field(
        30.0, ge=1.0, description="seconds without a sign of life after which a worker counts as dead"
    )
    fleet: Fleet = Fleet()
    scenes: Scenes = Scenes()
    caches: Caches = Caches()
    limits: Limits = Limits()

    @field_validator("public_read")
    @classmethod
    def _needs_keys(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and not info.data.get("api_keys"):
            raise ValueError("false needs SMALTI_API_KEYS: without keys there is nobody whom reading is open to")
        return value

    @field_validator("basemap")
    @classmethod
    def _is_template(cls, value: str) -> str:
        if value and not all(part in value for part in ("{z}", "{x}", "{y}")):
            raise ValueError("write {z}, {x} and {y} where zoom, column and row belong")
        return value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return (
            tuple(ApiKey.parse(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        )

    @field_validator("allowed_hosts", "cors_origins", "local_networks", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return split_commas(value)

    @field_validator("allowed_hosts")
    @classmethod
    def _in_small_letters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name.lower() for name in value)  # as a Host header is compared
