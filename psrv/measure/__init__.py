"""Measurement: where every millisecond and every byte of a run went.

``meter`` times a training thread, ``clock`` maps server timestamps, ``tcp`` asks
the kernel for bytes, ``records`` writes JSON lines, ``summary`` makes
summary.json of what the workers hand over, ``trace`` makes trace.json.
Only the standard library is imported here.
"""

from psrv.measure.clock import OffsetEstimator
from psrv.measure.meter import PARTS, StepMeter, StepRecord, split_wait
from psrv.measure.records import BYTE_KEYS, Recorder, read_records
from psrv.measure.summary import WorkerTotals, build_summary, read_summary, write_summary
from psrv.measure.tcp import TcpCounters, TcpMeter, read_tcp_info
from psrv.measure.trace import write_trace

__all__ = [
    "BYTE_KEYS",
    "PARTS",
    "OffsetEstimator",
    "Recorder",
    "StepMeter",
    "StepRecord",
    "TcpCounters",
    "TcpMeter",
    "WorkerTotals",
    "build_summary",
    "read_records",
    "read_summary",
    "read_tcp_info",
    "split_wait",
    "write_summary",
    "write_trace",
]
