"""Stand-ins for OpenSpecimen and Oracle Clinical One, with fault injection and a log of every effect.

For tests, demonstrations and benchmarks: they follow what the vendors document, listen on loopback only, and can be
told to fail in every way a network and a server can.
"""

from vendor_sandbox.client import SandboxControl, SandboxRefused
from vendor_sandbox.server import Ports, RunningSandbox, running_sandbox
from vendor_sandbox.switches import Switches

__all__ = ["Ports", "RunningSandbox", "SandboxControl", "SandboxRefused", "Switches", "running_sandbox"]
