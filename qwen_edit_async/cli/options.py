"""Options that commands share. Their docstrings are what ``--help`` shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Group, Parameter, Token

from qwen_edit_async.models import EditParameters

Instruction = Parameter(name=("--instruction", "-i"), allow_leading_hyphen=True)


def _to_folder(_: Any, tokens: Sequence[Token]) -> Path:
    return Path(os.path.expanduser(tokens[0].value))  # noqa: PTH111  # which takes "~nobody" for an error


Output = Annotated[Path, Parameter(name=("--output", "-o"), converter=_to_folder)]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
AsJSON = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


@Parameter(name="*", group=Group("How to edit", sort_key=1))
@attrs.frozen(kw_only=True)
class ParameterOptions:
    """The parameters of the service; what is not given is left to it."""

    n: Annotated[int | None, Parameter(name=("--n", "-n"))] = None
    """Pictures per edit, 1 to 6 (the service makes 1)."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, each 512 to 2048, rounded to multiples of 16 (the ratio of the last image, about 1024x1024 in all)."""  # noqa: E501  # one line of help
    negative_prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """What should not be seen, at most 500 characters."""
    seed: int | None = None
    """0 to 2147483647; the same seed keeps results similar, not identical (random)."""
    prompt_extend: bool | None = None
    """Whether the service rewrites the instruction (it does)."""
    watermark: bool | None = None
    """Whether it writes "Qwen-Image" into the bottom-right corner (it does not)."""

    def parameters(self) -> EditParameters:
        """These options as the library takes them."""
        return EditParameters(**attrs.asdict(self))


@Parameter(name="*", group=Group("Connection", sort_key=3))
@attrs.frozen(kw_only=True)
class ConnectionOptions:
    """How to talk to the service."""

    deadline: float = 600.0
    """Seconds that an edit may take."""
    timeout: float = 60.0
    """Seconds that a reply may take, or a piece of an upload."""
    poll_interval: float | None = None
    """Seconds between status checks of a task (learned from how long tasks take)."""
    trust_env: Flag = False
    """Use the environment's proxies and netrc."""
    allow_result_host: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A host that results may be fetched from though its address is not public; may be given more than once."""


@Parameter(name="*", group=Group("Submission", sort_key=2))
@attrs.frozen(kw_only=True)
class SubmissionOptions:
    """What may be submitted, and where."""

    fit: Flag = False
    """Turn, shrink and re-encode pictures that the service would refuse, instead of refusing them."""
    strict: Flag = False
    """Refuse text that the service would cut off, instead of saying so; in a batch, send nothing if any row is bad."""
    resubmit_uncertain: Flag = False
    """Submit again if the reply was lost, though both tasks may be charged."""
    envelope: Literal["auto", "flat", "params"] = "auto"
    """The form of the request's body."""
    emulator: Flag = False
    """Use an embedded service, which needs no key; it is not the model."""
