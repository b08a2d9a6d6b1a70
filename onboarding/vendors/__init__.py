"""Clients of OpenSpecimen and Clinical One that say of every call what is known of its effect.

Use one ``VendorHttp`` for both clients, in one event loop. The errors they raise are those of ``onboarding.errors``.
"""

from onboarding.explanations import explain
from onboarding.vendors import phrases
from onboarding.vendors.answers import Kind, classify
from onboarding.vendors.breaker import Breaker
from onboarding.vendors.calls import Check
from onboarding.vendors.clinical_one import ClinicalOneClient, DeviceCredentials
from onboarding.vendors.dispensation import (
    DISPENSED,
    NOT_DISPENSED_TO_SUBJECT,
    ConnectionType,
    Dispensation,
    HistoryRow,
)
from onboarding.vendors.exceptions import DndException, ExceptionList
from onboarding.vendors.gate import InMemoryGate, VendorGate
from onboarding.vendors.limits import Limits, Turn
from onboarding.vendors.openspecimen import OpenSpecimenClient
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Answer, Deadline, NoAnswer, Wire

__all__ = [
    "DISPENSED",
    "NOT_DISPENSED_TO_SUBJECT",
    "Answer",
    "Breaker",
    "Check",
    "ClinicalOneClient",
    "ConnectionType",
    "Deadline",
    "DeviceCredentials",
    "Dispensation",
    "DndException",
    "ExceptionList",
    "HistoryRow",
    "InMemoryGate",
    "Kind",
    "Limits",
    "NoAnswer",
    "OpenSpecimenClient",
    "Turn",
    "VendorGate",
    "VendorHttp",
    "Wire",
    "classify",
    "explain",
    "phrases",
]
