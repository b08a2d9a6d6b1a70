"""What a run is asked for, and the flow class that lets nothing else into the Prefect server.

Prefect's own validation names every wrong parameter's value in a log line, fails runs under no name of ours, and happens after
the parameters were stored. So they are read here: wrong ones are not stored by a direct call, and end as ``RequestRefused``.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, Self, TypeVar, cast

from prefect.flows import Flow
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.utilities import callables
from pydantic import Field, ValidationError
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import MISSING

from onboarding.errors import BadInput
from onboarding.identifiers import normalise_id
from onboarding.json_input import kind_of, read_object
from onboarding.problems import problem_lines
from onboarding.request import OnboardingRequest

NotShown = SkipJsonSchema[None]
"""None for callers in Python; of a form, a field that is left empty is not there at all."""

P = ParamSpec("P")
R = TypeVar("R")

NOT_STORED: Final = "not stored: it could not be used"
_CASE_ID_LENGTH: Final = 12
ID_PATTERN: Final = rf"^\s*[0-9A-Za-z]{{{_CASE_ID_LENGTH}}}\s*$"
"""Of a case's or a batch's id, for JSON schemas."""
_FLAGS: Final = ("dry_run", "retry_refused")


@dataclass(frozen=True)
class Asked:
    """A request or the id of a case, exactly one of them, and what to do with it."""

    request: OnboardingRequest | None
    case_id: str | None
    dry_run: bool
    retry_refused: bool


def read_asked(parameters: Mapping[str, Any]) -> Asked:
    """Read the parameters of a run as they came from a form, the API or a caller. Raises ``BadInput``."""
    problems = [
        f"{name}: must be true or false, not {kind_of(parameters.get(name))}."
        for name in _FLAGS
        if not isinstance(parameters.get(name, False), bool)
    ]
    given, case_id = parameters.get("request"), parameters.get("case_id")
    if (given is None) == (case_id is None):
        problems.append("give either a request or a case_id.")
    request = None
    try:
        request = None if given is None else read_request(given)
        case_id = None if case_id is None else read_case_id(case_id)
    except BadInput as error:
        problems += error.problems
    if problems:
        raise BadInput(problems)
    dry_run, retry_refused = (parameters.get(name, False) for name in _FLAGS)
    return Asked(request, case_id, dry_run, retry_refused)


def read_request(given: object) -> OnboardingRequest:
    """A request that holds no personal data; any other is refused, as from the command line: a line for each problem."""
    if type(given) is OnboardingRequest:
        return given
    if isinstance(given, OnboardingRequest):  # an intake request, which may hold a person's details
        given = given.vendor_json()
    if not isinstance(given, Mapping):
        raise BadInput([f"request: must be an object, not {kind_of(given)}"])
    content = read_object(given)
    try:
        return OnboardingRequest.model_validate(content)
    except ValidationError as error:
        problems = problem_lines(error, OnboardingRequest, content)
    # Raised outside the handler: the error of pydantic, which holds the values, does not travel with ours.
    raise BadInput(problems)


def read_case_id(given: object) -> str:
    """A case's id as the ledger writes it; space around it and small letters are taken too."""
    text = given.strip().upper() if isinstance(given, str) else ""
    if len(text) != _CASE_ID_LENGTH or not (text.isascii() and text.isalnum()):
        raise BadInput(
            [f"case_id: must be the {_CASE_ID_LENGTH} letters and digits of a case; 'onboard status' lists them."]
        )
    return text


def name_of_run(parameters: Mapping[str, Any]) -> str:
    """A run's name, without personal data: the case, or the end of the subject's id."""
    try:
        if parameters.get("case_id") is not None:
            return f"case {read_case_id(parameters['case_id'])}"
        request = parameters.get("request")
        subject = request.get("subject") if isinstance(request, Mapping) else getattr(request, "subject", None)
        spelt = ("subject_id", "subjectId")
        ids = [subject.get(name) if isinstance(subject, Mapping) else getattr(subject, name, None) for name in spelt]
        return f"subject ..{normalise_id(next(str(one) for one in ids if one is not None))[-8:]}"
    except (BadInput, ValueError, StopIteration):
        return "no request"


def storable_request(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the server may store of a run's parameters: all of them, or the flags alone of those that cannot be used."""
    try:
        asked = read_asked(parameters)
    except BadInput:
        flags = {name: parameters[name] for name in _FLAGS if isinstance(parameters.get(name), bool)}
        return {"request": NOT_STORED, **flags}
    return {**parameters, "request": asked.request, "case_id": asked.case_id}


def shown(*, title: str, description: str, **schema: Any) -> Any:
    """How a form shows a run's parameter, and what its JSON schema says else.

    Prefect takes a field's own title and description for those of its function.
    """
    return Field(json_schema_extra={"title": title, "description": description, **schema})


class AskedFlow(Flow[P, R]):
    """A flow that reads its parameters itself; of those that cannot be used, only what is ``storable`` gets to the server."""

    storable: Callable[[Mapping[str, Any]], dict[str, Any]]
    __signature__: inspect.Signature
    """What Prefect makes the form of."""

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as the server stores them for a flow that is called directly."""
        return super().serialize_parameters(self.storable(parameters))

    def with_options(self, **options: Any) -> Self:
        """A copy with other options, of this class too: Prefect's own is a plain flow, which would store anything."""
        copy = super().with_options(**options)
        copy.__class__ = type(self)
        copy.storable = self.storable  # type: ignore[attr-defined]  # which the line above gave it
        copy.__signature__ = self.__signature__  # type: ignore[attr-defined]  # likewise
        return cast("Self", copy)


class _FormSignature(inspect.Signature):
    """A signature of which the form takes no parameter but those that it shows."""


class _ClosedForm(callables.ParameterSchema):
    """Prefect's schema of a run's parameters, and that there are no others."""

    additionalProperties: bool  # noqa: N815 - a word of JSON schema


def _close_forms() -> None:
    """Make Prefect close the forms of our flows, whoever asks for them.

    The server keeps to what a deployment's schema says, but Prefect (3.8) has no way to say this one thing: a parameter of another
    name was stored, and its run crashed. `onboard setup`, `onboard up` and `prefect deploy` all make the schema by this function.
    """
    makes = callables.generate_parameter_schema

    def make(signature: inspect.Signature, docstrings: dict[str, str]) -> callables.ParameterSchema:
        made = makes(signature, docstrings)
        if not isinstance(signature, _FormSignature):
            return made
        return _ClosedForm(**made.model_dump(exclude_unset=True), additionalProperties=False)

    callables.generate_parameter_schema = make


_close_forms()


def _signature_for_a_form(function: Callable[..., Any]) -> inspect.Signature:
    """The function's signature without the default None, which a form would show as a value and send."""
    signature = inspect.signature(function, eval_str=True)
    parameters = [
        parameter.replace(default=MISSING) if parameter.default is None else parameter
        for parameter in signature.parameters.values()
    ]
    return _FormSignature(parameters, return_annotation=signature.return_annotation)


def asked_flow(
    *, storable: Callable[[Mapping[str, Any]], dict[str, Any]], **options: Any
) -> Callable[[Callable[P, R]], AskedFlow[P, R]]:
    """Make a flow of a function, as ``prefect.flow`` does, with what all flows here have in common.

    ``storable`` says what the server may store of a run's parameters.
    """
    common: dict[str, Any] = {
        "validate_parameters": False,  # the flows do, and repeat no value
        "retries": 0,  # a retry by Prefect itself would pass for a person's, which tries refused steps again
        "persist_result": False,
        # Nothing is stored there. Were it not named, Prefect would ask its server where to, with a client made for that.
        "result_storage": PREFECT_LOCAL_STORAGE_PATH.value(),
        "log_prints": False,
    }

    def make(function: Callable[P, R]) -> AskedFlow[P, R]:
        made = AskedFlow(function, **common, **options)
        made.storable = storable
        made.__signature__ = _signature_for_a_form(function)
        return made

    return make
