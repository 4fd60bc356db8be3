"""What tests of the socket say over it."""

import os

from autotuner.daemon.socket_peer import Peer

ME = Peer(os.getpid(), os.getuid())
KNOBS = {"micro_batch": {"start": 8, "values": [2, 4, 8], "effect": "boundary"}, "pace": {"start": 1, "values": [0.5, 1]}}
DECLARE = {"type": "declare", "name": "cats", "knobs": KNOBS}
