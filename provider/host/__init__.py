"""The owner of the machine comes first: what the machine is doing, what its owner allows, and when to wait."""

from provider.host.decision import Decision, HostLimits, decide
from provider.host.gate import Gate
from provider.host.readings import Readings
from provider.host.schedule import Schedule
from provider.host.sensors import Sensors

__all__ = ["Decision", "Gate", "HostLimits", "Readings", "Schedule", "Sensors", "decide"]
