"""What Prefect runs."""

from flows.decide_case import decide_case
from flows.onboard_batch import onboard_batch
from flows.onboard_chunk import onboard_chunk
from flows.onboard_subject import onboard_subject
from flows.resume_cases import resume_cases
from flows.take_inbox import take_inbox

__all__ = ["decide_case", "onboard_batch", "onboard_chunk", "onboard_subject", "resume_cases", "take_inbox"]
