"""The vendor connections as Prefect blocks, and where the flows get their connections from."""

from blocks.clinical_one import ClinicalOne
from blocks.connections import connections_for_flows
from blocks.open_specimen import OpenSpecimen

__all__ = ["ClinicalOne", "OpenSpecimen", "connections_for_flows"]
