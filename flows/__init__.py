"""What Prefect runs."""

from flows.onboard_subject import onboard_subject

__all__ = ["onboard_subject"]
