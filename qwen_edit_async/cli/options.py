"""Command-line options. ``--help`` shows each option's docstring, which may end with the default in parentheses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
from cyclopts import Group, Parameter, Token

from qwen_edit_async.models import EditParameters
from qwen_edit_async.storage.paths import FilePath, file_path

Instruction: Parameter = Parameter(name=("--instruction", "-i"), allow_leading_hyphen=True)


def _to_folder(_: Any, tokens: Sequence[Token]) -> FilePath:
    return file_path(tokens[0].value)


Output = Annotated[
    FilePath, Parameter(name=("--output", "-o"), converter=_to_folder, accepts_keys=False, n_tokens=1, metavar="PATH")
]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
AsJSON = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]


@Parameter(name="*", group=Group("How to edit", sort_key=1))
@attrs.frozen(kw_only=True)
class ParameterOptions:
    """The service's parameters. Omitted parameters are not sent."""

    n: Annotated[int | None, Parameter(name=("--n", "-n"))] = None
    """Pictures per edit, 1 to 6 (default: 1)."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels, each 512 to 2048, rounded to multiples of 16 (default: about 1 megapixel, in the last image's ratio)."""  # noqa: E501  # one line of help
    negative_prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Content to avoid, at most 500 characters."""
    seed: int | None = None
    """A number from 0 to 2147483647. The same seed gives similar, not identical, results (default: random)."""
    prompt_extend: bool | None = None
    """Whether the service rewrites the instruction (default: yes)."""
    watermark: bool | None = None
    """Whether the service writes "Qwen-Image" into the bottom-right corner (default: no)."""

    def parameters(self) -> EditParameters:
        """Return the options as :class:`EditParameters`."""
        return EditParameters(**attrs.asdict(self))


@Parameter(name="*", group=Group("Connection", sort_key=3))
@attrs.frozen(kw_only=True)
class ConnectionOptions:
    """Options for the connection."""

    protocol: Literal["generation", "queue", "dashscope"] | None = None
    """The service's protocol (default: QWEN_EDIT_PROTOCOL, or generation)."""
    model: str | None = None
    """The model's name at the service (default: depends on the protocol)."""
    deadline: float = 600.0
    """Maximum seconds for an edit."""
    timeout: float = 60.0
    """Maximum seconds to wait for a reply, or for progress of an upload."""
    poll_interval: float | None = None
    """Seconds between status checks of a task (default: learned from the durations of tasks)."""
    trust_env: Flag = False
    """Use the environment's proxies and netrc."""
    allow_result_hosts: Annotated[
        tuple[str, ...],
        Parameter(name=("--allow-result-host", "--allow-result-hosts"), negative=(), show_default=False),
    ] = ()
    """A host with a private address from which results may be downloaded. Can be given several times."""

    def session_options(self) -> dict[str, Any]:
        """Return these options as arguments of :class:`EditSession`."""
        from qwen_edit_async.scheduling.policies import FixedInterval  # noqa: PLC0415  # slow to import

        options = attrs.asdict(self)
        interval = options.pop("poll_interval")
        return options | {"polling": None if interval is None else FixedInterval(interval)}


@Parameter(name="*", group=Group("Submission", sort_key=2))
@attrs.frozen(kw_only=True)
class SubmissionOptions:
    """Options for submissions."""

    fit: Flag = False
    """Turn, shrink or re-encode pictures that the service would refuse or edit badly."""
    inline: Flag = False
    """Read pictures in buckets and send their content, instead of presigned URLs."""
    strict: Flag = False
    """Refuse text that the service would cut off. In a batch, send nothing if any row is bad."""
    resubmit_uncertain: Flag = False
    """Repeat a submission after a lost reply (in a batch, only in a later run). Both tasks may be charged."""
    envelope: Literal["auto", "flat", "params", "header"] = "auto"
    """The form of the request body for the generation protocol. Auto tries flat, then params."""
    emulator: Flag = False
    """Use the emulator, an embedded service that needs no key. It does not run the model."""

    def session_options(self) -> dict[str, Any]:
        """Return these options as arguments of :class:`EditSession`."""
        return attrs.asdict(self, filter=attrs.filters.exclude("emulator"))

    @property
    def service(self) -> str:
        """The service's name in journals. If the name is empty, journals record the service's address.

        The emulator has a name, because its address changes from run to run.
        """
        return "the embedded service" if self.emulator else ""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class BatchOptions:
    """Options for the input, output and limits of a bulk run."""

    concurrency: Annotated[int, Parameter(name=("--concurrency", "-c"))] = 16
    """Maximum number of tasks in flight."""
    recursive: Flag = False
    """Also read subfolders, except hidden ones. In a local folder, skip system folders and other runs' results too."""
    overwrite: Flag = False
    """Replace existing files that this batch did not make. By default, an edit that would replace such a file fails."""
    edit_changed: Flag = False
    """Edit a row again if its pictures, instruction or parameters have changed. The earlier files keep their names."""
    max_cost: Decimal | None = None
    """Stop submitting before all runs of the batch together could cost more than this amount."""
    max_tasks: int | None = None
    """Stop submitting after all runs of the batch together have created this many tasks."""
    stop_after_failures: int | None = None
    """Stop submitting after this many failures."""
    journal: Path | None = None
    """The local folder for the journal, if the results go to a bucket."""
    gallery_limit: int = 2000
    """Maximum number of edits in report.html, failed edits first. 0 means no report.html."""
    dry_run: Flag = False
    """Only print what a run would do and which rows are bad. Writes nothing. Needs no key, except with --ask-price."""
    price: Decimal | None = None
    """The price of a picture, for --dry-run and --max-cost. For --max-cost, a price that the service stated in an earlier run, or a higher one, replaces it."""  # noqa: E501  # one line of help
    ask_price: Flag = False
    """Request the price from the service. This sends a small picture, but creates no task and costs nothing."""

    def batch_options(self) -> dict[str, Any]:
        """Return the options that are arguments of :class:`EditBatch`, except the price."""
        return attrs.asdict(self, filter=attrs.filters.exclude("concurrency", "dry_run", "price", "ask_price"))


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class HubOptions:
    """Options for the address and limits of a hub."""

    listen: str = "127.0.0.1:8788"
    """A loopback or private address and a port. Port 0 means any free port."""
    certificate: Path | None = None
    """A PEM file with a certificate and its private key, to encrypt the connection."""
    concurrency: Annotated[int, Parameter(name=("--concurrency", "-c"))] = 16
    """Maximum number of tasks in flight, for all workers together."""
    submit_rate: float | None = None
    """Maximum number of submissions per second (default: no limit)."""
    max_cost: Decimal | None = None
    """Stop submitting before the folder's edits together could cost more than this amount."""
    price: Decimal | None = None
    """The price of a picture, for --max-cost. A price stated in an earlier run, or a higher one, replaces it."""
    max_tasks: int | None = None
    """Stop submitting after this many tasks have been created for the folder."""


_OTHER_NAMES = {"max_in_flight": "concurrency"}
"""Options that have another name in the shell."""

_NAMES = set(_OTHER_NAMES) | {
    field.name
    for options in (BatchOptions, HubOptions, SubmissionOptions, ConnectionOptions)
    for field in attrs.fields(options)
}
_OPTION = re.compile(rf"(?<![^\s(])({'|'.join(sorted(_NAMES))})(?!\.?[\w/\\-])(=True\b|(?==))?")
_ATTACH = re.compile(r"session\.attach\('([^']+)'\)")


def shell_text(text: str) -> str:
    """Replace the Python options in a message with shell options.

    ``name=True`` becomes ``--name``, and ``session.attach('TASK_ID')`` becomes ``qwen-edit fetch TASK_ID``. A
    name that touches other parts of a path, as in ``runs/dry_run``, stays as it is.

    Messages in journals keep the Python options, because Python users read journals too.
    """
    text = _ATTACH.sub(r"qwen-edit fetch \1", text)
    return _OPTION.sub(_in_shell, text)


def _in_shell(found: re.Match[str]) -> str:
    name, value = found.groups()
    is_plain_word = value is None and "_" not in name
    return name if is_plain_word else f"--{_OTHER_NAMES.get(name, name).replace('_', '-')}"
