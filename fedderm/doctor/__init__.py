"""A site examined before anything joins: its table, images and counts, its machine, its way to the server."""

from fedderm.doctor.connection import Coordinator, examine_connection
from fedderm.doctor.findings import Examination, Finding, Level, in_order_of_weight
from fedderm.doctor.machine import examine_machine
from fedderm.doctor.site import examine_site

__all__ = [
    "Coordinator",
    "Examination",
    "Finding",
    "Level",
    "examine_connection",
    "examine_machine",
    "examine_site",
    "in_order_of_weight",
]
