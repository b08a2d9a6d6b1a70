"""The automations that go with the deployments: runs whose process is gone are said to be Crashed, and people are told."""

import json
from datetime import timedelta
from typing import Final
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import get_current_settings

from cli.told import Outcome, Told
from flows.events import event_name
from onboarding.endings import Ending

CRASHED_NAME: Final = "onboarding: runs without a heartbeat are Crashed"
ATTENTION_NAME: Final = "onboarding: tell people what needs attention"
WEBHOOK: Final = "onboarding-attention"
_DEFAULT_HEARTBEAT_S: Final = 180
_HEARTBEATS: Final = 3


def missing_heartbeats(flow_names: list[str], within_s: float | None = None) -> AutomationCore:
    """Runs of these flows of which nothing was heard for three heartbeats are set to Crashed. Nothing is run again by it.

    Any event of the run counts, so one that was suspended, paused or sent to wait after its last heartbeat is left alone.
    Limit: a Prefect server on SQLite can lose an event for its automations when its database is busy at that instant ("database
    is locked" in its log). A run whose pause was lost so is said to be Crashed; Prefect lets none leave a final state for it.
    """
    heartbeat_s = get_current_settings().flows.heartbeat_frequency or _DEFAULT_HEARTBEAT_S
    within = timedelta(seconds=within_s or _HEARTBEATS * heartbeat_s)
    return AutomationCore(
        name=CRASHED_NAME,
        description="A run whose process was killed stays Running for ever. The case goes on by resume-cases, not by this.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": sorted(flow_names)}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="Nothing was heard of its process any more. The ledger knows how far its cases are; they go on by "
                "themselves when their leases are over.",
            )
        ],
    )


def needs_attention(block_document_id: UUID) -> AutomationCore:
    """People are told of each run whose case or batch needs them; switched off until somebody says where to."""
    return AutomationCore(
        name=ATTENTION_NAME,
        description=f"Put your address into the block custom-webhook/{WEBHOOK} (Slack, Teams or Mattermost), then switch this on.",
        enabled=False,
        trigger=EventTrigger(
            expect={event_name(Ending.NEEDS_ATTENTION), event_name(Ending.BATCH_NEEDS_ATTENTION)},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_document_id,
                subject="Onboarding needs attention",
                body="{{ event.resource.name }}: {{ event.payload.code or event.payload.ending }}. "
                "What to do: onboard status --only attention",
            )
        ],
    )


async def set_up_automations(client: PrefectClient, flow_names: list[str]) -> list[Told]:
    """Make both automations, or bring them up to date; whether one is switched on is left as people have it."""
    crashed = missing_heartbeats(flow_names)
    stands = await _standing(client, CRASHED_NAME)
    told = [Told(f"automation '{CRASHED_NAME}'", await _apply(client, crashed, stands))]
    if await _standing(client, ATTENTION_NAME) is not None:  # what people made of it is theirs
        return [*told, Told(f"automation '{ATTENTION_NAME}'", Outcome.LEFT)]
    block = CustomWebhookNotificationBlock(
        name=WEBHOOK, url="https://example.invalid/put-your-webhook-here", json_data={"text": "{{subject}}: {{body}}"}
    )
    block_id = await block.asave(WEBHOOK, overwrite=True)
    await client.create_automation(needs_attention(block_id))
    return [*told, Told(f"automation '{ATTENTION_NAME}'", Outcome.CREATED, "switched off until you say where to")]


async def _standing(client: PrefectClient, name: str) -> Automation | None:
    found = await client.read_automations_by_name(name)
    return found[0] if found else None


async def _apply(client: PrefectClient, wanted: AutomationCore, stands: Automation | None) -> Outcome:
    if stands is None:
        await client.create_automation(wanted)
        return Outcome.CREATED
    if _said(stands) == _said(wanted):
        return Outcome.LEFT
    await client.update_automation(stands.id, wanted.model_copy(update={"enabled": stands.enabled}))
    return Outcome.CHANGED


def _said(automation: AutomationCore) -> str:
    chosen = {"description": ..., "trigger": ..., "actions": ...}
    plain = automation.model_dump(mode="json", include=set(chosen))
    for name in ("after", "expect", "for_each"):
        plain["trigger"][name] = sorted(plain["trigger"][name])
    return json.dumps(plain, sort_keys=True)  # a server on PostgreSQL keeps no order of keys
