"""Settings of an installation, read in one place: environment, else the settings file, else defaults.

Vendor connections come from the environment here; the flows fall back to Prefect blocks where the environment names none.
Every problem names its setting, says what is wrong and what is allowed; secrets are never echoed.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from onboarding.addresses import address_problem
from onboarding.errors import BadSettings

PREFIX: Final = "ONBOARDING_"
APPLICATION: Final = "subject-onboarding"
Mode = Literal["test", "training", "active"]


def _words(value: object) -> object:
    """Split a comma-separated setting into its words, spaces around them ignored."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


class OpenSpecimenConnection(BaseModel):
    """Where OpenSpecimen is and who logs in there; ``url`` ends with the application name, without a slash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    username: str = Field(min_length=1)
    password: SecretStr
    domain: str = "openspecimen"
    time_zone: str = "UTC"


class ClinicalOneConnection(BaseModel):
    """Where Clinical One and its token service are, and the OAuth client that speaks to them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    token_url: str
    client_id: str = Field(min_length=1)
    client_secret: SecretStr
    scope: str = Field(min_length=1)
    dnd_path: str = Field(default="dndexception", min_length=1)


class Settings(BaseModel):
    """Everything an installation can set besides its vendor connections. Times are seconds unless the name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ledger_url: str = Field(
        default="",
        description="Where the ledger is: sqlite:////absolute/path.db or postgresql+psycopg://user@host/database.",
    )
    ledger_key: SecretStr | None = Field(
        default=None,
        description="Key of the ledger, 32 bytes in URL-safe base64. A new SQLite ledger makes its own, in a file beside it.",
    )
    modes: Annotated[tuple[Mode, ...], BeforeValidator(_words)] = Field(
        default=("test", "training"),
        min_length=1,
        description="Study modes this installation may touch; `active` must be named.",
    )
    lease_seconds: float = Field(
        default=90, ge=0.1, le=3600, description="How long a runner owns a case before it must renew."
    )
    request_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=600,
        description="One deadline for a request: log-in, connection, answer and replay together.",
    )
    settle_seconds: float = Field(
        default=30, ge=0, le=3600, description="How long after a request's deadline a vendor may still apply it."
    )
    max_wait_days: float = Field(
        default=30, gt=0, le=3650, description="How long a case waits for the dispensation of its device."
    )
    dispensation_check_seconds: float = Field(
        default=900,
        gt=0,
        le=86400,
        description="First pause between two looks at the dispensation; it grows eightfold at most.",
    )
    retry_after_ceiling_seconds: float = Field(
        default=3600, gt=0, le=86400, description="Longest wait a vendor's Retry-After can ask for."
    )
    requests_in_flight: int = Field(
        default=32, ge=1, le=500, description="Requests to one vendor under way at a time, of one run."
    )
    requests_per_second: float | None = Field(
        default=None,
        gt=0,
        le=10000,
        description="Requests to one vendor begun per second, of one run; no limit of its own if it is not set.",
    )
    concurrency: int = Field(
        default=48,
        ge=1,
        le=1000,
        description="Cases of a batch that are worked at a time, of one process; each has one request under way at most.",
    )
    batch_task_runs: int = Field(
        default=100,
        ge=0,
        le=1000,
        description="Batches of up to so many cases show each step as a task run; larger ones a task run for each chunk.",
    )
    batch_chunk: int = Field(default=250, ge=1, le=5000, description="Cases of one chunk of a larger batch.")
    processes: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Processes of one run that share a batch of 500 cases or more, and its limits on requests; at most 2 on SQLite.",
    )
    batch_workers: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Runs on the work pool that share a larger batch at a time; 1: the batch's own run works it alone.",
    )
    inbox: Path | None = Field(
        default=None, description="Folder from which files of many subjects are taken; an absolute path."
    )
    max_sends: int = Field(default=4, ge=1, le=50, description="Times one effect is sent before a person must look.")
    max_probes: int = Field(
        default=8, ge=1, le=100, description="Probes with an effect of their own before an outcome is called unknown."
    )
    max_idle_takings: int = Field(
        default=60, ge=2, le=10000, description="Times a case is worked without progress before a person must look."
    )
    allow_plain_http: bool = Field(default=False, description="Allow http:// to vendors that are not on this machine.")
    loopback_only: bool = Field(
        default=False, description="Refuse vendors that are not on this machine (the demo and the tests set it)."
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates trusted besides the system's own, in PEM form."
    )

    @property
    def quiet_seconds(self) -> float:
        """How long after an intent nobody may conclude that its request was not applied."""
        return self.request_timeout_seconds + self.settle_seconds


CONNECTION_VARIABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "openspecimen": {
        "url": "Address up to the application name, such as https://host:8443/openspecimen.",
        "username": "Log-in name.",
        "password": "Password.",
        "domain": "Log-in domain (default openspecimen).",
        "time_zone": "Time zone of the server, such as Europe/Berlin (default UTC).",
    },
    "clinical_one": {
        "url": "Address of the tenant, such as https://tenant.clinicalone.oraclecloud.com.",
        "token_url": "Full address of the token service.",
        "client_id": "OAuth client id.",
        "client_secret": "OAuth client secret.",
        "scope": "Scopes, separated by spaces, such as tenant.ec-ors-svc.all.",
        "dnd_path": "Path segment of the DND exceptions (default dndexception).",
    },
}
SETTING_VARIABLES: Final = frozenset(
    (PREFIX + name).upper()
    for name in (
        "settings_file",
        *Settings.model_fields,
        *(f"{system}_{name}" for system, names in CONNECTION_VARIABLES.items() for name in names),
    )
)
"""Every variable that is read."""

_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "openspecimen": OpenSpecimenConnection,
    "clinical_one": ClinicalOneConnection,
}


class Connections(BaseModel):
    """Both vendor connections, or None for one that is not configured yet."""

    model_config = ConfigDict(frozen=True)

    openspecimen: OpenSpecimenConnection | None = None
    clinical_one: ClinicalOneConnection | None = None


def settings_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The settings file: ``ONBOARDING_SETTINGS_FILE``, else ``settings.toml`` in the user's configuration folder."""
    named = environ.get(PREFIX + "SETTINGS_FILE")
    return Path(named) if named else Path(platformdirs.user_config_dir(APPLICATION)) / "settings.toml"


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like settings, and are none: nothing reads them."""
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in SETTING_VARIABLES)


def default_ledger_url() -> str:
    """The embedded ledger in the user's data folder."""
    return f"sqlite:///{Path(platformdirs.user_data_dir(APPLICATION)).absolute() / 'ledger.db'}"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings, or raise ``BadSettings`` with a line for each problem."""
    stored, problems = _read_file(environ)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if environ.get(variable, "") != "":
            values[name], origins[name] = environ[variable], variable
        elif name in stored:
            values[name], origins[name] = stored[name], f"{name} in {settings_file(environ)}"
    values.setdefault("ledger_url", default_ledger_url())
    try:
        settings = Settings(**values)
    except ValidationError as error:
        found = error.errors()
        inside = {e["loc"][0] for e in found if len(e["loc"]) > 1}  # a list is not empty because its entries are wrong
        problems += [
            _problem(origins.get(str(e["loc"][0]), str(e["loc"][0])), e)
            for e in found
            if len(e["loc"]) > 1 or e["loc"][0] not in inside
        ]
        raise BadSettings(problems) from None
    if problems:
        raise BadSettings(problems)
    return settings


def load_connections(settings: Settings, environ: Mapping[str, str] = os.environ) -> Connections:
    """Read the vendor connections of the environment; one that has no variable at all is None."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    for system, variables in CONNECTION_VARIABLES.items():
        prefix = f"{PREFIX}{system.upper()}_"
        values = {
            name: environ[prefix + name.upper()] for name in variables if environ.get(prefix + name.upper(), "") != ""
        }
        if not values:
            continue
        try:
            found[system] = _MODELS[system](**values)
        except ValidationError as error:
            problems += [_problem(prefix + str(e["loc"][0]).upper(), e) for e in error.errors()]
            continue
        problems += connection_problems(found[system], settings, prefix=prefix)
    if problems:
        raise BadSettings(problems)
    return Connections.model_validate({system: _without_slashes(connection) for system, connection in found.items()})


def connection_problems(connection: BaseModel, settings: Settings, *, prefix: str) -> list[str]:
    """What keeps a connection from being used, one line per problem; ``prefix`` leads the setting's name."""
    problems = []
    for name in ("url", "token_url"):
        address = getattr(connection, name, None)
        if address is not None and (why := _why_not_contact(address, settings)):
            problems.append(f"{prefix}{name.upper() if prefix.isupper() else name}: {why}")
    segment = getattr(connection, "dnd_path", None)
    if segment is not None and ("/" in segment or not segment.strip(". ")):
        problems.append(
            f"{prefix}{'DND_PATH' if prefix.isupper() else 'dnd_path'}: must be one path segment, such as dndexception."
        )
    zone = getattr(connection, "time_zone", None)
    if zone is not None and not _is_zone(zone):
        problems.append(
            f"{prefix}{'TIME_ZONE' if prefix.isupper() else 'time_zone'}: not a known time zone; write it like Europe/Berlin."
        )
    return problems


def _why_not_contact(address: str, settings: Settings) -> str | None:
    return address_problem(address, loopback_only=settings.loopback_only, allow_plain_http=settings.allow_plain_http)


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError on some versions, an OSError on odd names
        return False
    except KeyError:
        return False
    return True


def _without_slashes(connection: BaseModel) -> BaseModel:
    return connection.model_copy(
        update={
            name: getattr(connection, name).rstrip("/") for name in ("url", "token_url") if hasattr(connection, name)
        }
    )


def _read_file(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    path = settings_file(environ)
    named = f"{PREFIX}SETTINGS_FILE: " if environ.get(PREFIX + "SETTINGS_FILE") else ""
    try:
        stored = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if environ.get(PREFIX + "SETTINGS_FILE"):
            return {}, [f"{PREFIX}SETTINGS_FILE: there is no file {path}; write one, or unset it."]
        return {}, []
    except (OSError, UnicodeDecodeError) as error:
        return {}, [
            f"{named}{path}: cannot be read ({type(error).__name__}); name a text file that this user may read, or none."
        ]
    except tomllib.TOMLDecodeError as error:
        return {}, [f"{named}{path}: not valid TOML: {error}."]
    unknown = sorted(set(stored) - set(Settings.model_fields))
    return stored, [
        f"{path}: unknown setting {name!r}; allowed: {', '.join(Settings.model_fields)}." for name in unknown
    ]


def _problem(where: str, error: Any) -> str:
    """A pydantic error as one plain line, without the value."""
    if error["type"] == "missing":
        return f"{where}: is missing; set it, or unset the other settings of this connection."
    if error["type"] == "too_short" and error["loc"] == ("modes",):
        return f"{where}: names no mode; allowed are {', '.join(get_args(Mode))}."
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{where}: {message[:1].lower()}{message[1:]}."
