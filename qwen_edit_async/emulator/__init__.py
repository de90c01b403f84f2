"""The service, emulated: a real HTTP server on loopback that needs no key, costs nothing and fails on demand.

```python
async with EditEmulator(duration=0.2, slots=4) as emulator:
    async with EditSession(emulator.api_key, base_url=emulator.url) as session:
        ...
assert emulator.statistics().tasks_completed == 16
```

It follows the service's published contract to the letter, from its own reading of it: with the rest of the package it
shares the contract's constants only. It edits real pixels with Pillow (``qwen-edit-async[images]``), but it is not the
model: `PillowEngine` knows some plain words, and writes other instructions on the picture. `engine` replaces it.

```
 _server       life cycle, EditEmulator
 _api _results handlers of the two origins          _delivery  sends replies, applies faults
 _service      what both origins share
 _tasks        slots, durations, billing            _faults    the fault plan
 _validation   the contract's rules                 _replies   the service's JSON
 _engine       pixels                               _edits     effects and the words for them
 _sizes _durations _settings _statistics            values
```
"""

from ._durations import AfterChecks, Bimodal, Duration, LogNormal
from ._engine import EditEngine, EditJob, FixedEngine, PillowEngine
from ._faults import Fault, FaultPlan, Operation
from ._replies import ErrorShape
from ._server import EditEmulator
from ._settings import EmulatorSettings
from ._statistics import EmulatorStatistics, RequestRecord
from ._tasks import TaskRecord
from ._validation import ImageInput, Submission

__all__ = [
    "AfterChecks",
    "Bimodal",
    "Duration",
    "EditEmulator",
    "EditEngine",
    "EditJob",
    "EmulatorSettings",
    "EmulatorStatistics",
    "ErrorShape",
    "Fault",
    "FaultPlan",
    "FixedEngine",
    "ImageInput",
    "LogNormal",
    "Operation",
    "PillowEngine",
    "RequestRecord",
    "Submission",
    "TaskRecord",
]
