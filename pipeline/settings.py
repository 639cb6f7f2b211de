"""What a UE and an edge are told to do: plain values, checked once, shared by the facade and the command line."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

from models import parse_profile
from pipeline.workers import TIME_LIMIT
from rtc import parse_link
from signaling.addresses import HOST_NAME, is_address, is_loopback, parse_listen
from signaling.auth import OriginGuard, check_token
from signaling.decision import OPTIMISE, PRIVACY
from signaling.limits import CONNECT_RATE
from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from rtc import IceServer

__all__ = ["DECIDERS", "MODES", "EdgeOptions", "EdgeSettings", "UeOptions", "UeSettings", "ice_server"]

DEFAULT_LISTEN = "127.0.0.1:8787"
DEFAULT_FPS = 30.0
"""What a UE announces when its source does not say how many frames per second it has."""
MAX_SESSIONS = 64
"""Sessions that an edge admits unless told otherwise."""
FRAME_BUDGET = 0.5
"""Seconds from capture after which a frame's result is worthless (TR 22.874 asks for 100-500 ms)."""
CONNECT_TIMEOUT = 10.0
"""Seconds from the start of signalling until the parameter set must be acknowledged."""
DRAIN_TIME = 10.0
"""Seconds that UEs have to go elsewhere when an edge is to stop."""
MAX_THREADS = 1024
MODES = ("auto", "local", "split", "remote")
DECIDERS = ("offer", "ue", "network")
VIDEO = "video"
"""The profile of the `remote` mode: the picture, as a WebRTC video track."""

_STUN = re.compile(rf"stun:{HOST_NAME}(?::[0-9]{{1,5}})?")
_TURN = re.compile(
    rf"(?P<scheme>turns?):(?P<user>[^:@]+):(?P<password>.+)@(?P<rest>{HOST_NAME}(?::[0-9]{{1,5}})?(?:\?transport=(?:udp|tcp))?)"
)


def _check_threads(name: str, count: int | None) -> None:
    if count is not None and not 1 <= count <= MAX_THREADS:
        raise BadArgument(f"{name}: expected 1 to {MAX_THREADS}, got {count}")


def _check_address(name: str, address: str | None) -> None:
    if address is None:
        return
    if not is_address(address):
        raise BadArgument(f"{name}: expected an IP address of this machine, got {address[:100]!r}")
    if ipaddress.ip_address(address).is_unspecified:
        raise BadArgument(f"{name}: expected one address of this machine, got {address}: leave it out to use all")


def ice_server(text: str) -> IceServer:
    """``stun:HOST[:PORT]`` or ``turn:USER:PASSWORD@HOST[:PORT][?transport=tcp]`` as a server; raises BadArgument."""
    from rtc import IceServer  # loads aiortc, which `splitrtc --help` can do without

    if _STUN.fullmatch(text):
        return IceServer(text)
    if match := _TURN.fullmatch(text):
        return IceServer(f"{match['scheme']}:{match['rest']}", match["user"], match["password"])
    # The text itself is not repeated: it may hold a password.
    raise BadArgument("ICE server: expected stun:HOST[:PORT] or turn:USER:PASSWORD@HOST[:PORT]")


class UeOptions(TypedDict, total=False):
    """The fields of `UeSettings` besides the URL, as keyword arguments."""

    model: str | None
    partition: str | None
    profile: str | None
    fps: float | None
    token: str | None
    ca: Path | None
    fingerprint: str | None
    bind: str | None
    ice_servers: tuple[str, ...]
    provider: str
    threads: int
    models: tuple[Path, ...]
    budget: float
    timeout: float
    threshold: float | None
    reconnect: bool
    link: str | None
    mode: str
    fallback: bool
    edges: tuple[str, ...]
    bundled: bool
    deliver: bool
    decide: str
    optimise: str
    privacy: str
    prefer: str | None


class EdgeOptions(TypedDict, total=False):
    """The fields of `EdgeSettings` besides the address, as keyword arguments."""

    token: str | None
    cert: Path | None
    key: Path | None
    self_signed: bool
    max_sessions: int
    provider: str
    threads: int
    workers: int | None
    bind: str | None
    ice_servers: tuple[str, ...]
    model: tuple[str, ...]
    models: tuple[Path, ...]
    accept: tuple[str, ...]
    time_limit: float
    drain_time: float
    connect_rate: float
    allow_origins: tuple[str, ...]
    admin_token: str | None


@dataclass(frozen=True, slots=True)
class UeSettings:
    """A UE's side of a session.

    ``model``, ``partition`` and ``profile`` narrow what is offered: with all three, one line is offered and the UE
    decides; without, several are and the network decides (TR 26.927 clause 5.2.3.2, cases 2 and 1). ``fps`` limits
    and announces the frame rate; ``budget`` is the time in seconds after which a result is worthless. With
    ``reconnect`` a session that is lost, or that does not come up, is tried again for as long as that may help.
    Without ``bundled``, the models that come with the program count as not here; unless ``deliver`` is false, an edge
    may deliver what is not here. ``link`` puts an emulated link between UE and edge (`rtc.parse_link`); it stands on
    the address that the media is bound to.

    ``mode`` says who answers the frames: ``split``, the edge with the device; ``local``, the device alone, for which
    no edge is needed (``url`` may be empty); ``remote``, the edge alone, which is sent the picture; ``auto``, split,
    and local while that gives no results. ``auto`` never gives up, as with ``reconnect``; ``fallback`` False spares
    the memory of the model that the device keeps for it. ``privacy`` "no-pictures" refuses whatever would send the
    picture. ``edges`` are further ones; the best of all is tried first.

    ``decide`` says who decides on the operating point, and how (TR 26.927 clause 5.2.3.2): "network" asks the edge
    (case 1), "ue" asks for its candidates and chooses (case 2), by what each would take; "offer" offers all in the
    order of preference. With mode ``auto``, and no cut or profile given, that decision is one among the modes as well:
    the device may do all of it, or send the picture. ``optimise`` and ``prefer`` (name or id of a cut) are wishes for
    that decision.
    """

    url: str
    model: str | None = None
    partition: str | None = None
    profile: str | None = None
    fps: float | None = None
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    fingerprint: str | None = None
    bind: str | None = None
    ice_servers: tuple[str, ...] = field(default=(), repr=False)
    provider: str = "auto"
    threads: int = 1
    models: tuple[Path, ...] = ()
    budget: float = FRAME_BUDGET
    timeout: float = CONNECT_TIMEOUT
    threshold: float | None = None
    reconnect: bool = False
    link: str | None = None
    mode: str = "split"
    fallback: bool = True
    edges: tuple[str, ...] = ()
    bundled: bool = True
    deliver: bool = True
    decide: str = "offer"
    optimise: str = "latency"
    privacy: str = "any"
    prefer: str | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not 0.001 <= self.fps <= 1000:
            raise BadArgument(f"fps: expected 0.001 to 1000 frames per second, got {self.fps:g}")
        if not 0.001 <= self.budget <= 60:
            raise BadArgument(f"budget: expected 0.001 to 60 seconds, got {self.budget:g}")
        if not (self.timeout > 0 and math.isfinite(self.timeout)):
            raise BadArgument(f"timeout: expected a positive number of seconds, got {self.timeout:g}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise BadArgument(f"threshold: expected a score from 0 to 1, got {self.threshold:g}")
        for name, choices in (("mode", MODES), ("decide", DECIDERS), ("optimise", OPTIMISE), ("privacy", PRIVACY)):
            if (value := getattr(self, name)) not in choices:
                raise BadArgument(f"{name}: expected {', '.join(choices)}, got {value!r:.100}")
        if self.mode == "remote" and self.privacy == "no-pictures":
            raise BadArgument("mode remote sends the picture, which privacy no-pictures forbids: choose one of both")
        _check_threads("threads", self.threads)
        _check_address("bind", self.bind)
        for server in self.ice_servers:
            ice_server(server)
        if self.link is not None:
            parse_link(self.link)
            if self.media_bind is None:
                raise BadArgument(
                    "link: an emulated link needs one address that UE and edge both reach: with an edge on another"
                    " machine, give --bind with this machine's address towards it"
                )

    @property
    def urls(self) -> tuple[str, ...]:
        """All edges, as the user gave them."""
        return (self.url, *self.edges)

    @property
    def may_decide_on_mode(self) -> bool:
        """Whether the decision on the operating point is one among all modes: a cut or a profile means `split`."""
        return self.mode == "auto" and self.decide != "offer" and self.partition is None and self.profile is None

    @property
    def keeps_trying(self) -> bool:
        """Whether a session that is lost, or does not come up, is tried again."""
        return self.reconnect or self.mode == "auto"

    @property
    def media_bind(self) -> str | None:
        """Address for the media of the first edge: see `media_bind_to`."""
        return self.media_bind_to(self.url)

    def media_bind_to(self, url: str) -> str | None:
        """Address for the media: as told, else loopback for an edge there, which ICE leaves out by itself."""
        if self.bind is not None:
            return self.bind
        try:
            host = urlsplit(url if "//" in url else f"//{url}").hostname or ""
        except ValueError:
            raise BadArgument("edge: expected a URL such as wss://edge.example:8443 or 192.0.2.7:8080") from None
        return _loopback_of(host)


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """An edge's side: where it listens, whom it lets in, how much it takes on.

    ``model`` are the names of the models that it serves; empty: all of the zoo, and of the folders ``models``, whose
    files are here. ``accept`` are the profiles that it takes, the preferred one first; empty: all that its models
    allow, in the UE's order of preference. A frame may be computed for ``time_limit`` seconds: one that hangs ends its
    session. One address may open ``connect_rate`` WebSockets per second in the long run. Without a token, web pages of
    ``allow_origins`` may connect besides those that this machine serves at the same address. With ``admin_token``, who
    has that may change what lies in the first of the folders ``models``. An edge that is to stop gives its UEs
    ``drain_time`` seconds to go elsewhere.
    """

    listen: str = DEFAULT_LISTEN
    token: str | None = field(default=None, repr=False)
    cert: Path | None = None
    key: Path | None = None
    self_signed: bool = False
    max_sessions: int = MAX_SESSIONS
    provider: str = "auto"
    threads: int = 1
    workers: int | None = None
    bind: str | None = None
    ice_servers: tuple[str, ...] = field(default=(), repr=False)
    model: tuple[str, ...] = ()
    models: tuple[Path, ...] = ()
    accept: tuple[str, ...] = ()
    time_limit: float = TIME_LIMIT
    drain_time: float = DRAIN_TIME
    connect_rate: float = CONNECT_RATE
    allow_origins: tuple[str, ...] = ()
    admin_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        host, _ = parse_listen(self.listen)
        if not is_loopback(host) and self.token is None:
            raise BadArgument(
                f"listening on {host} lets other machines in: give --token or --token-file, or listen on 127.0.0.1"
            )
        if self.admin_token is not None:
            check_token(self.admin_token)
            if not self.models:
                raise BadArgument("admin token: uploaded models want a folder; give --models DIR")
            if self.admin_token == self.token:
                raise BadArgument("admin token: expected another one than UEs have")
        if self.token == "":
            raise BadArgument("token: expected at least one character, got an empty one")
        if (self.cert is None) != (self.key is None):
            raise BadArgument("TLS: --cert and --key go together")
        if self.self_signed and self.cert is not None:
            raise BadArgument("TLS: give either --cert and --key, or --self-signed")
        if self.max_sessions < 1:
            raise BadArgument(f"max-sessions: expected at least 1, got {self.max_sessions}")
        for profile in self.accept:
            if profile != VIDEO:
                parse_profile(profile)
        if not 0.01 <= self.time_limit <= 3600:
            raise BadArgument(f"time-limit: expected 0.01 to 3600 seconds, got {self.time_limit:g}")
        if not 0 <= self.drain_time <= 3600:
            raise BadArgument(f"drain-time: expected 0 to 3600 seconds, got {self.drain_time:g}")
        if not 0.01 <= self.connect_rate <= 1e6:
            raise BadArgument(f"connect-rate: expected 0.01 to 1000000 per second, got {self.connect_rate:g}")
        OriginGuard(self.allow_origins)
        _check_threads("threads", self.threads)
        _check_threads("workers", self.workers)
        _check_address("bind", self.bind)
        for server in self.ice_servers:
            ice_server(server)

    @property
    def media_bind(self) -> str | None:
        """Address for the media: as told, else loopback when only loopback is listened on."""
        if self.bind is not None:
            return self.bind
        return _loopback_of(parse_listen(self.listen)[0])


def _loopback_of(host: str) -> str | None:
    if not is_loopback(host):
        return None
    return "::1" if ":" in host else "127.0.0.1"
