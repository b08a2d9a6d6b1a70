"""The deployments of ``deployments.yaml``: for a work pool, through the Prefect API, or served by a process of ours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import yaml
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import parameter_schema

from cli.told import Outcome
from onboarding.errors import OnboardingError

FILE: Final = Path(__file__).resolve().parents[1] / "deployments.yaml"


class NoDeployments(OnboardingError):
    """The file with the deployments cannot be used; says why."""


@dataclass(frozen=True)
class Wanted:
    """One deployment as the file has it; intervals are seconds."""

    name: str
    entrypoint: str
    description: str
    tags: list[str]
    parameters: dict[str, Any]
    limit: int
    strategy: str
    intervals_s: list[float]
    pool: str
    queue: str

    @property
    def flow(self) -> Flow[..., Any]:
        """The flow that it runs."""
        found: Flow[..., Any] = load_flow_from_entrypoint(self.entrypoint)
        return found

    @property
    def schedules(self) -> list[DeploymentScheduleCreate]:
        """Its schedules, switched on."""
        return [
            DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=one)), active=True)
            for one in self.intervals_s
        ]


def wanted_deployments(file: Path = FILE) -> list[Wanted]:
    """What the file holds. A test keeps it to what is read here."""
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
        return [_wanted(one) for one in content["deployments"]]
    except OSError as error:
        raise NoDeployments(
            f"{file}: cannot be read ({error.strerror}); install the project from its folder (make setup)."
        ) from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise NoDeployments(f"{file}: is not as this version expects it ({type(error).__name__}: {error}).") from None


def _wanted(one: Mapping[str, Any]) -> Wanted:
    limit = one["concurrency_limit"]
    return Wanted(
        name=one["name"],
        entrypoint=one["entrypoint"],
        description=one["description"],
        tags=one["tags"],
        parameters=one["parameters"],
        limit=limit["limit"],
        strategy=limit["collision_strategy"],
        intervals_s=[float(schedule["interval"]) for schedule in one["schedules"] if schedule["active"]],
        pool=one["work_pool"]["name"],
        queue=one["work_pool"]["work_queue_name"],
    )


async def apply(client: PrefectClient, wanted: Wanted) -> tuple[Outcome, str]:
    """Make the deployment on its work pool as the file has it; what was done, and what differed."""
    flow = wanted.flow
    schema = parameter_schema(flow)
    outcome, differing = Outcome.CREATED, ""
    try:
        stands = await client.read_deployment_by_name(f"{flow.name}/{wanted.name}")
    except ObjectNotFound:
        pass
    else:
        differing = ", ".join(_differences(wanted, schema.model_dump(exclude_unset=True), stands))
        if not differing:
            return Outcome.LEFT, ""
        outcome = Outcome.CHANGED
    # The API takes one that stands under this name for the one to be changed.
    await client.create_deployment(
        flow_id=await client.create_flow(flow),
        name=wanted.name,
        paused=False,
        schedules=wanted.schedules,
        concurrency_limit=wanted.limit,
        concurrency_options=ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(wanted.strategy)),
        parameters=wanted.parameters,
        description=wanted.description,
        tags=wanted.tags,
        work_pool_name=wanted.pool,
        work_queue_name=wanted.queue,
        entrypoint=wanted.entrypoint,
        pull_steps=[],
        parameter_openapi_schema=schema.model_dump(exclude_unset=True),
        enforce_parameter_schema=True,
    )
    return outcome, differing


def _differences(wanted: Wanted, schema: dict[str, Any], stands: DeploymentResponse) -> Iterator[str]:
    limit, options = stands.global_concurrency_limit, stands.concurrency_options
    intervals = [
        one.schedule.interval.total_seconds()
        for one in stands.schedules
        if one.active and isinstance(one.schedule, IntervalSchedule)
    ]
    same = {
        "entry point": (stands.entrypoint, stands.pull_steps or []) == (wanted.entrypoint, []),
        "description": (stands.description or "").strip() == wanted.description.strip(),
        "tags": sorted(stands.tags) == sorted(wanted.tags),
        "parameters": stands.parameters == wanted.parameters,
        "form": stands.parameter_openapi_schema == schema and stands.enforce_parameter_schema is True,
        "work pool": (stands.work_pool_name, stands.work_queue_name) == (wanted.pool, wanted.queue),
        "concurrency limit": limit is not None
        and limit.limit == wanted.limit
        and options is not None
        and options.collision_strategy == wanted.strategy,
        "schedules": not stands.paused
        and sorted(intervals) == sorted(wanted.intervals_s)
        and len(intervals) == len(stands.schedules),
    }
    return (name for name, holds in same.items() if not holds)


def served(wanted: Wanted) -> RunnerDeployment:
    """The deployment as a process of ours serves it: without a work pool."""
    return RunnerDeployment.from_flow(
        wanted.flow,
        name=wanted.name,
        description=wanted.description,
        tags=wanted.tags,
        parameters=dict(wanted.parameters),
        schedules=wanted.schedules,
        concurrency_limit=ConcurrencyLimitConfig(
            limit=wanted.limit, collision_strategy=ConcurrencyLimitStrategy(wanted.strategy)
        ),
        enforce_parameter_schema=True,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
