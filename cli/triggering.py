"""Starting a deployment's run once for each time it is wanted, and following the run to its end, through the Prefect API."""

import hmac
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cli.prefect_api import Answer, NoAnswer, PrefectApi
from onboarding.endings import ENDINGS, EXIT_FAULT, EXIT_WAITING, Ending
from onboarding.errors import BadInput, BadSettings, OnboardingError
from onboarding.fields import compact_json
from onboarding.intake import parse_request
from onboarding.request import canonical_json

_LOOK_S: Final = 1.0
_KEYS_A_LOOK: Final = 100
_FINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})
_FIELD: Final = re.compile(r"field '([\w.\[\]]+)'")  # Prefect's words after the name repeat the value
_MISSING: Final = re.compile(r"'(\w+)' is a required property")
_FORM_REFUSED: Final = (409, 422)
_CASE_TAG: Final = "case:"


class NotStarted(OnboardingError):
    """No run was started, or nobody knows whether one was; says which, and what to do."""


@dataclass(frozen=True)
class Run:
    """A run as the API has it; nothing of its parameters."""

    id: str
    type: str
    name: str
    message: str
    case_id: str | None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.type in _FINAL

    @property
    def ending(self) -> Ending | None:
        """How it ended, by the name of its state; None if it did not end as runs end here."""
        known = self.name in set(Ending) and ENDINGS[Ending(self.name)].state == self.type
        return Ending(self.name) if known else None

    @property
    def exit_status(self) -> int:
        """The command line's exit status for it."""
        if not self.over:
            return EXIT_WAITING
        return EXIT_FAULT if self.ending is None else ENDINGS[self.ending].exit_status


@dataclass(frozen=True)
class Started:
    """A run that was started, or that stood already under this key.

    Attributes:
        created: whether the API called it new. It does so to each of those who ask with one key at the very same moment,
            and to nobody if its answer was lost.
    """

    run: Run
    key: str
    created: bool


@dataclass(frozen=True)
class Wanted:
    """Which deployment is started with which parameters.

    Attributes:
        same_if: what makes two of them the same wish: the parameters in one spelling. Only its keyed digest leaves.
    """

    deployment: str
    parameters: Mapping[str, Any]
    same_if: str


def start(api: PrefectApi, wanted: Wanted, key: str | None) -> Started:
    """Start a run, or find the one that this key stands for.

    Raises:
        NotStarted: the API gave no usable answer.
        BadInput: the parameters are refused, or the key belongs to a run with other ones.
        BadSettings: there is no such deployment or no Prefect API, or the log-in is refused.
    """
    try:
        deployment_id, defaults = _deployment(api, wanted.deployment)
        key = key or _next_key(api, deployment_id, wanted.same_if)
    except NoAnswer as error:
        raise NotStarted(f"{error.why}. No run was started; give the same command again.") from None
    body = {"parameters": wanted.parameters, "idempotency_key": key}
    try:
        answer = api.post(f"deployments/{deployment_id}/create_flow_run", body)
    except NoAnswer as error:
        raise NotStarted(_unknown(error, key)) from None
    if answer.status not in (200, 201):
        raise _refused(answer)
    if not isinstance(answer.content, dict) or not {"id", "parameters"} <= answer.content.keys():
        raise api.is_no_api()
    # Of a run called new, too: it may be that of another caller, who asked with this key at the very same moment.
    if not _is_wanted(answer.content["parameters"], wanted.parameters, defaults):
        what = f"it belongs to run {answer.content['id']}, which has other parameters; nothing was started."
        raise BadInput([f"--idempotency-key: {what} Give another key, or none."])
    return Started(_run(answer.content), key, created=answer.status == 201)


def follow(api: PrefectApi, run: Run, ends: float | None, tell: Callable[[Run], None]) -> Run:
    """Look at a run until it has ended, or until the monotonic time ``ends``; ``tell`` hears of each new state.

    Raises:
        OnboardingError: the API does not answer any more, or does not know the run; the run may go on.
    """
    while not run.over and (ends is None or time.monotonic() < ends):
        time.sleep(_LOOK_S)
        try:
            answer = api.get(f"flow_runs/{run.id}")
        except NoAnswer as error:
            raise OnboardingError(f"{error.why}. Run {run.id} goes on without this command.") from None
        if answer.status != 200:
            raise OnboardingError(f"run {run.id} is not there any more (HTTP {answer.status}): somebody deleted it.")
        before, run = run, _run(answer.content)
        if run.name != before.name:
            tell(run)
    return run


def _deployment(api: PrefectApi, name: str) -> tuple[str, Mapping[str, Any]]:
    """Its id, and the parameters that it adds where a caller names none."""
    answer = api.get(f"deployments/name/{name}")
    if answer.status == 404:
        what = f"there is no deployment {name} at {api.address}; 'onboard setup' makes it, and 'onboard up' serves it."
        raise BadSettings([f"PREFECT_API_URL: {what}"])
    if answer.status != 200 or not isinstance(answer.content, dict) or "id" not in answer.content:
        raise api.is_no_api()
    return str(answer.content["id"]), answer.content.get("parameters") or {}


def _next_key(api: PrefectApi, deployment_id: str, same_if: str) -> str:
    """The key of the run that is under way for this wish; if the last one has ended, or none was, of the next.

    Prefect gives the old run for a key for ever, so the number of the run is part of it. The digest is keyed with the
    deployment's id: it is the same for every caller of this deployment, and no other table of digests fits it.
    """
    digest = hmac.digest(deployment_id.encode(), same_if.encode(), "sha256").hex()[:32]
    number = 1
    while True:
        keys = {f"onboard-{digest}-{one}": one for one in range(number, number + _KEYS_A_LOOK)}
        answer = api.post("flow_runs/filter", {"flow_runs": {"idempotency_key": {"any_": list(keys)}}})
        if answer.status != 200 or not isinstance(answer.content, list):
            raise api.is_no_api()
        used = {keys[run["idempotency_key"]]: _run(run) for run in answer.content if run.get("idempotency_key") in keys}
        if not used:
            return f"onboard-{digest}-{number}"
        last = max(used)
        if not used[last].over:
            return f"onboard-{digest}-{last}"
        if last < number + _KEYS_A_LOOK - 1:
            return f"onboard-{digest}-{last + 1}"
        number = last + 1


def _run(content: Mapping[str, Any]) -> Run:
    state = content.get("state") or {}
    tags = [tag.removeprefix(_CASE_TAG) for tag in content.get("tags", []) if tag.startswith(_CASE_TAG)]
    return Run(
        str(content["id"]),
        str(state.get("type")),
        str(state.get("name")),
        str(state.get("message") or ""),
        tags[0] if tags else None,
    )


def _is_wanted(found: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether a run's parameters mean what is wanted, with or without what the deployment adds."""
    # A default that is an object may be a template, which the server fills in: only the run tells what came of it.
    added = {name: found.get(name) if isinstance(value, dict) else value for name, value in defaults.items()}
    return _meant(found) in (_meant(wanted), _meant({**added, **wanted}))


def _meant(parameters: Mapping[str, Any]) -> str:
    """Parameters in one spelling, without what says as much as nothing."""
    said = {name: value for name, value in parameters.items() if value is not None and value is not False}
    if isinstance(said.get("request"), dict):
        # What cannot be read stays as it is; nothing that is wanted equals it.
        with suppress(BadInput):
            said["request"] = canonical_json(parse_request(said["request"])).decode()
    return compact_json(said)


def _refused(answer: Answer) -> OnboardingError:
    if answer.status not in _FORM_REFUSED:
        what = f"the Prefect API does not take the request (HTTP {answer.status}); no run was started. "
        return NotStarted(f"{what}The deployment may just have been deleted: 'onboard setup' makes it again.")
    detail = answer.content.get("detail") if isinstance(answer.content, dict) else None
    found = [pattern.search(detail) if isinstance(detail, str) else None for pattern in (_FIELD, _MISSING)]
    names = ".".join(match[1] for match in found if match)
    what = f"{names or 'the parameters'}: refused by the deployment's form (HTTP {answer.status}); no run was started. "
    return BadInput([f"{what}It may be of another version than this command: 'onboard setup' brings it up to date."])


def _unknown(error: NoAnswer, key: str) -> str:
    if not error.may_have_arrived:
        return f"{error.why}. No run was started; give the same command again."
    return (
        f"{error.why}. Whether a run was started is not known. Give the same command with --idempotency-key {key}: "
        "it finds the run if there is one, and starts it if not."
    )
