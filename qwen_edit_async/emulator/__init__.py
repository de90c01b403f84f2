"""The emulated service: a real HTTP server on loopback that needs no account, costs nothing and fails on demand.

```python
async with EditEmulator(duration=0.2, slots=4) as emulator:
    async with EditSession(emulator.api_key, base_url=emulator.url) as session:
        ...
assert emulator.statistics().tasks_completed == 16
```

The emulator implements the service's published contract, and shares only the contract's constants with the client. It
listens on two origins: one for the API, and one for the result pictures. The API origin has separate paths for three
protocols: `generation`, `queue` and Alibaba Model Studio's `dashscope`. The default engine edits pixels with Pillow
(``qwen-edit-async[images]``), but it is not the model. The setting `engine` selects another engine.

```
 server        EditEmulator: starts and closes the service
 generation  queue  dashscope  models               the protocols of the API origin, and the model's description
 calls         code that the protocols share        results    the results origin
 service       state that both origins share        delivery   sends replies, applies faults
 tasks         slots, durations, billing            faults     the fault plan
 validation    the contract's rules                 replies    HTTP replies and errors
 engine        makes the pictures                   edits      effects and the words for them
 sizes  durations  settings  statistics             plain values
```
"""

from qwen_edit_async.emulator.durations import AfterChecks, Bimodal, Duration, LogNormal
from qwen_edit_async.emulator.engine import EditEngine, EditJob, FixedEngine, PillowEngine
from qwen_edit_async.emulator.faults import Fault, FaultPlan, Operation
from qwen_edit_async.emulator.replies import ErrorShape
from qwen_edit_async.emulator.server import EditEmulator
from qwen_edit_async.emulator.settings import EmulatorSettings
from qwen_edit_async.emulator.statistics import EmulatorStatistics, RequestRecord
from qwen_edit_async.emulator.tasks import TaskRecord
from qwen_edit_async.emulator.validation import ImageInput, Submission

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
