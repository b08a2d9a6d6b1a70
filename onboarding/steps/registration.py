"""Step 1: the registration in OpenSpecimen says what the request says.

An update may merge people, for good, when the participant or one of its identifiers differs from what stands; such an
update is never sent twice. Source: vendor documentation ("Update Registration", "Merging two participants").
"""

from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

from onboarding.endings import Ending
from onboarding.errors import OPENSPECIMEN, Refused
from onboarding.fields import compact_json
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import Intent, StepView
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.claiming import registration_claims
from onboarding.steps.comparison import (
    differences,
    is_masked,
    may_merge,
    standing_content,
    wanted_content,
)
from onboarding.steps.holding import hold
from onboarding.steps.report import StepReport
from onboarding.steps.sending import SENDS_USED_UP, Sent, send_effect
from onboarding.steps.session import CaseSession, Looks

STEP = StepName.REGISTRATION


async def ensure_registration(session: CaseSession) -> StepReport:
    """Read what stands; update it unless it is already so, or settle the doubt that an earlier attempt left."""
    begun = await hold(session, STEP, registration_claims(session))
    if isinstance(begun, StepReport):
        return begun
    section = session.request.registration
    assert section is not None
    stands = await session.systems.openspecimen.read_registration(section.id, deadline=session.deadline())
    if begun.status is StepStatus.OPEN:
        return await _settle(session, begun, stands)
    return await _update(session, begun, stands)


async def _update(session: CaseSession, view: StepView, stands: dict[str, Any]) -> StepReport:
    section = session.request.registration
    assert section is not None
    body = section.body()
    refuse_other_registration(session, body, stands)
    zone = ZoneInfo(session.systems.time_zone)
    wanted = wanted_content(body, zone)
    before = standing_content(wanted, stands, zone)
    if not differences(wanted, before):
        await session.commit(lambda write: write.step(STEP).found({"changed": []}))
        return StepReport(STEP, Ending.ALREADY_DONE, "ALREADY_SO")
    if view.intent.absences >= session.settings.max_sends:
        await session.commit(lambda write: write.step(STEP).refuse(SENDS_USED_UP))
        return StepReport(STEP, Ending.NEEDS_ATTENTION, SENDS_USED_UP, system=OPENSPECIMEN)
    facts = {
        "before": {path: _digest(session, path, value) for path, value in before.items()},
        "may_merge": may_merge(wanted, before),
    }
    intent = Intent(compact_json(body).encode(), session.settings.quiet_seconds, facts)
    client = session.systems.openspecimen
    sent = await send_effect(
        session,
        STEP,
        intent,
        lambda deadline: client.update_registration(section.id, body, deadline=deadline, check=session.check_lease),
    )
    if not isinstance(sent, Sent):
        return sent
    outcome = {"changed": sorted(differences(wanted, before))}
    await session.commit_answer(
        STEP,
        attempt=sent.attempt,
        says="applied",
        code="UPDATED",
        change=lambda write: write.step(STEP).applied(outcome, code="UPDATED"),
    )
    return StepReport(STEP, Ending.DONE, "UPDATED")


async def _settle(session: CaseSession, view: StepView, stands: dict[str, Any]) -> StepReport:
    """The read-back decides: as sent is applied, as before is absent (after the quiet time), all else is unknown."""
    section = session.request.registration
    assert section is not None
    zone = ZoneInfo(session.systems.time_zone)
    wanted = wanted_content(section.body(), zone)
    now = standing_content(wanted, stands, zone)
    before = view.intent.facts["before"]
    if not differences(wanted, now):
        await session.commit(lambda write: write.step(STEP).applied({"probed": True}, code="PROBE_FOUND_APPLIED"))
        return StepReport(STEP, Ending.DONE, "PROBE_FOUND_APPLIED")
    unchanged = not is_masked(now) and all(_digest(session, path, now[path]) == before[path] for path in now)
    if unchanged and not view.intent.facts["may_merge"]:
        if view.intent.quiet_left_s > 0:
            return StepReport(STEP, Ending.RETRY_SCHEDULED, view.code, view.intent.quiet_left_s, OPENSPECIMEN)

        def absent(write: CaseWrite) -> StepView:
            write.step(STEP).absent()
            return write.step(STEP).view()

        return await _update(session, await session.commit(absent), stands)
    if unchanged and view.intent.quiet_left_s > 0:
        return StepReport(STEP, Ending.RETRY_SCHEDULED, view.code, view.intent.quiet_left_s, OPENSPECIMEN)
    code = _why_unknown(unchanged=unchanged, masked=is_masked(now))
    await session.commit(lambda write: write.step(STEP).inconclusive(code))
    return StepReport(STEP, Ending.NEEDS_ATTENTION, code, system=OPENSPECIMEN)


def _why_unknown(*, unchanged: bool, masked: bool) -> str:
    if unchanged:
        return "MERGE_IN_DOUBT"
    return "CANNOT_READ_BACK" if masked else "CHANGED_BY_SOMEONE_ELSE"


def refuse_other_registration(session: Looks, body: Mapping[str, Any], stands: dict[str, Any]) -> None:
    """Refuse to touch a registration of another protocol, or another person's without leave to merge."""
    section = session.request.registration
    assert section is not None
    for key in ("cpId", "cpTitle", "cpShortTitle"):
        asked, found = body.get(key), stands.get(key)
        if asked is not None and found is not None and str(asked).strip() != str(found).strip():
            raise Refused(
                OPENSPECIMEN,
                "PROTOCOL_DIFFERS",
                f"registration {section.id} belongs to another protocol than {key} says.",
            )
    person = stands.get("participant")
    found = person.get("id") if isinstance(person, dict) else None
    if section.participant is None or section.allow_merge or str(found) == str(section.participant.id):
        return
    raise Refused(
        OPENSPECIMEN,
        "PARTICIPANT_DIFFERS",
        f"registration {section.id} belongs to another participant; updating it would merge two people for good.",
    )


def _digest(session: CaseSession, path: str, value: str) -> str:
    return session.digest("registration", path, value)
