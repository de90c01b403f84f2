"""Strips the signatures of presigned URLs, so that URLs of the same picture are equal. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from qwen_edit_async.images.kinds import is_url

_NAMES: Final = frozenset({"expires", "signature", "key-pair-id", "googleaccessid"})
_ENDINGS: Final = ("accesskeyid", "-security-token")
_VENDOR_SIGNATURE: Final = re.compile("(x-[a-z0-9]+-)signature")
"""Matches the name of a storage service's signature parameter, such as ``x-amz-signature``. The service's other signing
parameters, such as ``x-amz-date``, start with the same prefix (here ``x-amz-``)."""

_CHANGES_PICTURE: Final = "-process"
"""The ending of a parameter that changes the picture, such as ``x-oss-process``. Such a parameter is kept."""

_AZURE: Final = (
    "sig sv ss se sp sr srt st spr sip si sdd skoid sktid skt ske sks skv saoid suoid scid skdutid sduoid ses"
)
_TENCENT: Final = "q-signature q-sign-algorithm q-ak q-sign-time q-key-time q-header-list q-url-param-list"
_NAMES_BESIDE: Final[Mapping[str, frozenset[str]]] = {
    "sig": frozenset(_AZURE.split()),
    "key-pair-id": frozenset({"policy"}),
    "ossaccesskeyid": frozenset({"security-token"}),
    "q-signature": frozenset(_TENCENT.split()),
}
"""Each key is a parameter. In a URL with this parameter, the parameters in the value belong to the signature."""

_NAMES_AT: Final[Mapping[str, frozenset[str]]] = {
    ".fbcdn.net": frozenset({"oh", "oe"}),
    ".cdninstagram.com": frozenset({"oh", "oe"}),
    ".discordapp.com": frozenset({"ex", "is", "hm"}),
    ".discordapp.net": frozenset({"ex", "is", "hm"}),
}
"""Each key is the end of a host name. At such a host, the parameters in the value belong to a URL's signature."""

_PATH: Final = re.compile("[/?#]")
"""Matches the first character after the host and port of a URL."""


def unsigned(text: str) -> str:
    """Return a URL without its signature, and with its scheme and host in lower case. Return other text unchanged."""
    if not is_url(text):
        return text
    text, host = _with_lower_host(text)
    address, question_mark, rest = text.partition("?")
    if not question_mark:
        return text
    query, number_sign, fragment = rest.partition("#")
    parameters = query.split("&")
    names = [parameter.partition("=")[0].lower() for parameter in parameters]
    signing = _NAMES.union(
        *(beside for name, beside in _NAMES_BESIDE.items() if name in names),
        *(signature for ending, signature in _NAMES_AT.items() if host.endswith(ending)),
    )
    vendors = tuple(found[1] for name in names if (found := _VENDOR_SIGNATURE.fullmatch(name)))
    kept = [
        parameter
        for name, parameter in zip(names, parameters, strict=True)
        if name not in signing
        and not name.endswith(_ENDINGS)
        and (not name.startswith(vendors) or name.endswith(_CHANGES_PICTURE))
    ]
    return address + ("?" if kept else "") + "&".join(kept) + number_sign + fragment


def _with_lower_host(url: str) -> tuple[str, str]:
    """Return a URL with its scheme and host in lower case, and the host without the port."""
    scheme, slashes, rest = url.partition("://")
    authority = _PATH.split(rest, maxsplit=1)[0]
    user, at, host = authority.rpartition("@")
    whole = f"{scheme.lower()}{slashes}{user}{at}{host.lower()}{rest[len(authority) :]}"
    return whole, host.partition(":")[0].lower()
