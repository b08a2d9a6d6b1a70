"""What Prefect runs."""

from flows.decide_case import decide_case
from flows.onboard_subject import onboard_subject
from flows.resume_cases import resume_cases

__all__ = ["decide_case", "onboard_subject", "resume_cases"]
