"""Step 3: the mHealth device is registered in Clinical One, once.

There is no idempotency key and no documented read of "is it registered". So a doubt is ended by something that has an
effect of its own, only after the quiet time, and only for a doubt of our own: cloud-to-cloud by sending again (a second
registration is refused), device-to-cloud by the access-code call. Source: vendor documentation ("Registers an mHealth
device", "access-code").
"""

import json
from collections.abc import Sequence

from onboarding.endings import Ending
from onboarding.errors import CLINICAL_ONE, AnswerError, InDoubt, LoginRefused, NotYet, Refused, Unavailable
from onboarding.fields import compact_json
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.step_writes import StepWrite
from onboarding.ledger.views import Intent, StepView
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.claiming import device_claims
from onboarding.steps.dispensation import await_dispensation, fresh_guard, refuse_old_guard
from onboarding.steps.holding import hold
from onboarding.steps.report import StepReport
from onboarding.steps.sending import PROBES_USED_UP, SENDS_USED_UP, Sent, refuse_or_unknown, said, send_effect
from onboarding.steps.session import CaseSession
from onboarding.vendors.clinical_one import DeviceCredentials
from onboarding.vendors.dispensation import ConnectionType

STEP = StepName.DEVICE
ALREADY_REGISTERED = "DEVICE_ALREADY_REGISTERED"
NOT_REGISTERED = "DEVICE_NOT_REGISTERED"
NOT_DISPENSED = "DEVICE_NOT_DISPENSED"


async def ensure_device(session: CaseSession) -> StepReport:
    """See the dispensation, then register the device, or settle the doubt that an earlier attempt left."""
    try:
        view = await session.look(STEP)
        if view.status is StepStatus.OPEN:
            return await _settle_open(session)
        await fresh_guard(session)
        return await _register(session, view, claims=device_claims(session))
    except NotYet as error:
        return await _rolled_back(session, error)


async def _settle_open(session: CaseSession) -> StepReport:
    begun = await hold(session, STEP, device_claims(session))
    if isinstance(begun, StepReport):
        return begun
    if begun.intent.quiet_left_s > 0:
        return StepReport(STEP, Ending.RETRY_SCHEDULED, begun.code, begun.intent.quiet_left_s, CLINICAL_ONE)
    guard = await fresh_guard(session)
    return await _settle(session, begun, guard.connection)


async def _register(
    session: CaseSession, view: StepView, *, probe: bool = False, claims: Sequence[ClaimKey] = ()
) -> StepReport:
    if not probe and view.intent.absences >= session.settings.max_sends:
        await session.commit(lambda write: write.step(STEP).refuse(SENDS_USED_UP))
        return StepReport(STEP, Ending.NEEDS_ATTENTION, SENDS_USED_UP, system=CLINICAL_ONE)
    device = session.request.device
    assert device is not None
    assert session.guard is not None
    body = device.body()
    subject = session.request.subject
    facts = {"connection": session.guard.connection.value}
    client = session.systems.clinical_one
    sent = await send_effect(
        session,
        STEP,
        Intent(compact_json(body).encode(), session.settings.quiet_seconds, facts),
        lambda deadline: client.register_device(
            subject.study_id, str(subject.mode), subject.subject_id, body, deadline=deadline, check=session.check_lease
        ),
        probe=probe,
        refused=_record_refusal,
        still=lambda: refuse_old_guard(session),
        claims=claims,
    )
    if not isinstance(sent, Sent):
        return sent
    return await _registered(session, sent.answer, attempt=sent.attempt, code="REGISTERED")


def _record_refusal(step: StepWrite, error: Refused) -> None:
    """Already registered ends a doubt of our own as applied, unless an attempt of ours met it before outside doubt."""
    if error.code != ALREADY_REGISTERED:
        refuse_or_unknown(step, error)
    elif not step.in_doubt:
        step.refuse(error.code, already_registered=True, **said(error))
    elif step.view().met_already_registered:
        step.inconclusive(error.code, **said(error))
    else:
        step.applied({"probed": True}, code="PROBE_FOUND_APPLIED")


async def _settle(session: CaseSession, view: StepView, connection: ConnectionType) -> StepReport:
    """After the quiet time: cloud-to-cloud sends again, device-to-cloud asks for a new access code."""
    if view.intent.probes >= session.settings.max_probes:
        await session.commit(lambda write: write.step(STEP).inconclusive(PROBES_USED_UP))
        return StepReport(STEP, Ending.NEEDS_ATTENTION, PROBES_USED_UP, system=CLINICAL_ONE)
    if connection is ConnectionType.CLOUD_TO_CLOUD:
        return await _register(session, view, probe=True)
    return await _ask_for_access_code(session)


async def _ask_for_access_code(session: CaseSession) -> StepReport:
    device = session.request.device
    assert device is not None
    subject, client = session.request.subject, session.systems.clinical_one
    quiet_s = session.settings.quiet_seconds

    def probe(write: CaseWrite) -> int:
        write.step(STEP).probed("ASKING_FOR_ACCESS_CODE", quiet_s=quiet_s)
        return write.step(STEP).view().intent.attempts

    try:
        async with client.turn(session.settings.request_timeout_seconds) as turn:
            refuse_old_guard(session)
            attempt = await session.commit(probe)
            credentials = await client.reissue_access_code(
                subject.study_id,
                str(subject.mode),
                subject.subject_id,
                device.inventory_id,
                device.m_subject_id,
                deadline=turn,
                check=session.check_lease,
            )
    except NotYet:
        raise
    except (InDoubt, Unavailable, LoginRefused) as error:
        return await _probe_failed(session, error)
    except Refused as error:
        if error.code == NOT_DISPENSED:
            raise NotYet(
                CLINICAL_ONE, error.code, error.what, http_status=error.http_status, vendor_text=error.vendor_text
            ) from None
        if error.code != NOT_REGISTERED:
            refusal = error
            await session.commit(lambda write: write.step(STEP).inconclusive(refusal.code, **said(refusal)))
            return StepReport(
                STEP, Ending.NEEDS_ATTENTION, error.code, system=error.system, http_status=error.http_status
            )

        def absent(write: CaseWrite) -> StepView:
            write.step(STEP).absent()
            return write.step(STEP).view()

        view = await session.commit(absent)
        await fresh_guard(session)  # the call took its time
        return await _register(session, view)
    return await _registered(session, credentials, attempt=attempt, code="PROBE_FOUND_APPLIED")


async def _probe_failed(session: CaseSession, error: AnswerError) -> StepReport:
    """A probe that failed leaves the doubt; it is tried again after its own quiet time."""
    if isinstance(error, LoginRefused | Unavailable):
        raise error  # nothing was sent, or nothing was applied: the usual wait
    await session.commit(lambda write: write.step(STEP).doubt(error.code, **said(error)))
    view = await session.look(STEP)
    return StepReport(
        STEP, Ending.RETRY_SCHEDULED, error.code, view.intent.quiet_left_s, CLINICAL_ONE, error.http_status
    )


async def _registered(session: CaseSession, credentials: DeviceCredentials, *, attempt: int, code: str) -> StepReport:
    sealed = json.dumps({"accessId": credentials.access_id, "otp": credentials.otp}).encode()
    outcome = {"device_id": credentials.device_id}
    await session.commit_answer(
        STEP,
        attempt=attempt,
        says="applied",
        code=code,
        change=lambda write: write.step(STEP).applied(outcome, code=code, credentials=sealed),
        beside=session.beside_last_effect,
    )
    return StepReport(STEP, Ending.DONE, code)


async def _rolled_back(session: CaseSession, error: NotYet) -> StepReport:
    """The dispensation was rolled back: back to waiting for it; an open doubt of the device stays open."""
    session.guard = None

    def roll_back(write: CaseWrite) -> None:
        if write.step(StepName.DISPENSATION).status is StepStatus.DONE:
            write.step(StepName.DISPENSATION).roll_back(error.code)

    await session.commit(roll_back)
    return await await_dispensation(session, error)
