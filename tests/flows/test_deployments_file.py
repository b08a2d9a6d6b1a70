"""`deployments.yaml` is checked strictly, since Prefect is not: it ignores keys that it does not know."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel

import flows

FILE = Path(__file__).resolve().parents[2] / "deployments.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = CONTENT["deployments"]


def unknown_keys(content: dict[str, Any]) -> list[str]:
    found = [f"{key}" for key in content if key not in names_of(PrefectYamlModel)]
    for place, one in enumerate(content.get("deployments", [])):
        found += [f"deployments[{place}].{key}" for key in one if key not in names_of(DeploymentConfig)]
        for section, model in (("work_pool", WorkPoolConfig), ("concurrency_limit", ConcurrencyLimitSpec)):
            inner = one.get(section)
            if isinstance(inner, dict):
                found += [f"deployments[{place}].{section}.{key}" for key in inner if key not in names_of(model)]
        for number, schedule in enumerate(one.get("schedules") or []):
            unknown = [key for key in schedule if key not in names_of(RawScheduleConfig)]
            found += [f"deployments[{place}].schedules[{number}].{key}" for key in unknown]
    return found


def names_of(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_key_is_one_that_prefect_knows() -> None:
    assert unknown_keys(CONTENT) == []
    PrefectYamlModel.model_validate(CONTENT)


def test_a_misspelt_key_would_be_noticed() -> None:
    wrong = yaml.safe_load(FILE.read_text("utf-8"))
    wrong["deployment"] = []
    wrong["deployments"][0] |= {"paramters": {}, "schedules": [{"cron": "0 6 * * *", "timezon": "UTC"}]}
    wrong["deployments"][0]["work_pool"]["work_queue"] = "default"
    wrong["deployments"][0]["concurrency_limit"]["strategy"] = "ENQUEUE"
    assert unknown_keys(wrong) == [
        "deployment",
        "deployments[0].paramters",
        "deployments[0].work_pool.work_queue",
        "deployments[0].concurrency_limit.strategy",
        "deployments[0].schedules[0].timezon",
    ]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_each_deployment_names_a_flow_that_loads_and_that_takes_its_parameters(deployment: dict[str, Any]) -> None:
    assert deployment["entrypoint"].replace(":", ".").split(".")[0] == "flows", "a module, as nothing is pulled"
    loaded: Flow[..., Any] = load_flow_from_entrypoint(deployment["entrypoint"])
    assert loaded is getattr(flows, deployment["entrypoint"].split(":")[1])
    schema = parameter_schema(loaded).model_dump()
    assert set(deployment["parameters"]) <= set(schema["properties"])
    validate(deployment["parameters"], schema, raise_on_error=True, ignore_required=True)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_each_deployment_says_what_holds_for_it(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] == "onboarding"
    assert deployment["pull"] == [], "else the folder of whoever deploys is written into it"
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["concurrency_limit"]["limit"] >= 1
    assert deployment["concurrency_limit"]["collision_strategy"] in {one.value for one in ConcurrencyLimitStrategy}
    assert deployment["description"]
