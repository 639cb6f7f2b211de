"""Where to listen, and whether that is this machine alone."""

from __future__ import annotations

import ipaddress
import re

from splitrtc_errors import BadArgument

__all__ = ["HOST_NAME", "is_address", "is_loopback", "parse_listen"]

HOST_NAME = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*"
"""Pattern of a host's name, or an IPv4 address."""
_LISTEN = re.compile(rf"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>{HOST_NAME})):(?P<port>[0-9]{{1,5}})")


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    return host.lower() == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def parse_listen(listen: str) -> tuple[str, int]:
    """``HOST:PORT`` (``[::1]:PORT`` for IPv6) as host and port; raises BadArgument."""
    match = _LISTEN.fullmatch(listen)
    if match and int(match["port"]) <= 65535 and (match["name"] or is_address(match["ipv6"])):
        return match["name"] or match["ipv6"], int(match["port"])
    raise BadArgument(f"listen: expected HOST:PORT, such as 127.0.0.1:8787 or [::1]:8787, got {listen[:100]!r}")
