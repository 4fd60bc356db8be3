"""Which process of a distributed training this is, as its launcher says in the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from autotuner.hook.files import LARGEST_NOTE_BYTES, read_text

RANK_VARIABLES = {
    "RANK": "WORLD_SIZE",  # torchrun, accelerate
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",  # Open MPI, and so mlx.launch --backend mpi
    "MLX_RANK": "MLX_WORLD_SIZE",  # mlx.launch; the size only for NCCL
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
}
"""The variable of the rank and that of the number of ranks; the first rank that is set counts."""

HOST_FILES = ("MLX_HOSTFILE", "MLX_IBV_DEVICES")
"""mlx.launch: a JSON list with one entry for each rank. Each process may have a copy under a name of its own."""

_NAMES_OF_A_LAUNCH = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "NCCL_HOST_IP",
    "NCCL_PORT",
    "MLX_JACCL_COORDINATOR",
)


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among those that were started together."""

    rank: int = 0
    size: int = 1
    key: str = ""
    """The same for all ranks of a launch on this host; empty when the environment does not tell launches apart."""

    @property
    def alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self.rank == 0 and self.size <= 1


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """What the environment says; a process that it says nothing of is alone."""
    for variable, size_variable in RANK_VARIABLES.items():
        if variable in environment:
            size = _whole(environment.get(size_variable, "")) or _hosts(environment) or 1
            return Launch(_whole(environment[variable]), size, _key(environment))
    return Launch()


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _hosts(environment: Mapping[str, str]) -> int:
    for text in _host_files(environment):
        try:
            hosts = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(hosts, list):
            return len(hosts)
    return 0


def _host_files(environment: Mapping[str, str]) -> Iterator[str]:
    for variable in HOST_FILES:
        try:
            yield read_text(environment[variable], LARGEST_NOTE_BYTES)
        except (KeyError, OSError, UnicodeDecodeError):
            continue


def _key(environment: Mapping[str, str]) -> str:
    names = [f"{name}={environment[name]}" for name in _NAMES_OF_A_LAUNCH if name in environment]
    names += _host_files(environment)
    return "\n".join([os.uname().nodename, *names]) if names else ""
