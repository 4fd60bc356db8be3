"""Who is at the other end of a Unix socket, as the kernel says: no message can claim to be somebody else."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from typing import Protocol

_SO_PEERCRED = 17  # Linux; absent from the module elsewhere
_LINUX = struct.Struct("<iII")  # struct ucred: pid, uid, gid
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2  # sys/un.h of macOS
_XUCRED = struct.Struct("<IIh2x16I")  # sys/ucred.h of macOS: version, uid, number of groups, groups


@dataclass(frozen=True)
class Peer:
    """The process that connected."""

    pid: int
    uid: int


class Options(Protocol):
    """What is needed of a connected socket."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """``buflen`` bytes of an option; raises OSError."""


def peer_of(connection: Options, platform: str = sys.platform) -> Peer:
    """The process at the other end of ``connection``; raises OSError when the kernel does not say."""
    if platform == "darwin":
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)
        pid = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4)
        return parse_darwin(credentials, pid)
    return parse_linux(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _LINUX.size))


def parse_linux(data: bytes) -> Peer:
    """``struct ucred``; raises OSError when it is cut short."""
    if len(data) != _LINUX.size:
        raise OSError(f"SO_PEERCRED gave {len(data)} bytes, expected {_LINUX.size}")
    pid, uid, _ = _LINUX.unpack(data)
    return Peer(pid, uid)


def parse_darwin(credentials: bytes, pid: bytes) -> Peer:
    """``struct xucred`` and a pid; raises OSError when either is cut short or of another version."""
    if len(credentials) != _XUCRED.size or len(pid) != 4:
        raise OSError(f"LOCAL_PEERCRED gave {len(credentials)} bytes, expected {_XUCRED.size}")
    version, uid, *_ = _XUCRED.unpack(credentials)
    if version != 0:
        raise OSError(f"LOCAL_PEERCRED has version {version}, expected 0")
    return Peer(int.from_bytes(pid, "little", signed=True), uid)
