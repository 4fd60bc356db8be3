"""Which rank this is: read from what the launchers put into the environment."""

import json

import pytest

from autotuner.hook.launch import Launch, launch


@pytest.mark.parametrize(
    ("environment", "rank", "size"),
    [
        ({}, 0, 1),
        ({"WORLD_SIZE": "4"}, 0, 1),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 3, 4),
        ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, 0, 4),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 2, 8),
        ({"MLX_RANK": "1", "MLX_WORLD_SIZE": "2"}, 1, 2),
        ({"LOCAL_RANK": "1"}, 1, 1),
        ({"RANK": "0"}, 0, 1),
        ({"RANK": "", "WORLD_SIZE": ""}, 0, 1),
        ({"RANK": "first", "WORLD_SIZE": "-2"}, 0, 1),
    ],
)
def test_the_first_rank_that_is_set_counts(environment, rank, size):
    found = launch(environment)
    assert (found.rank, found.size) == (rank, size)


def test_a_process_that_no_launcher_started_is_alone():
    assert launch({}) == Launch()
    assert launch({"RANK": "0", "WORLD_SIZE": "1"}).alone
    assert not launch({"RANK": "0", "WORLD_SIZE": "2"}).alone
    assert not launch({"RANK": "1"}).alone


@pytest.mark.parametrize("variable", ["MLX_HOSTFILE", "MLX_IBV_DEVICES"])
def test_mlx_tells_the_number_of_ranks_in_a_file_of_which_each_may_have_a_copy(tmp_path, variable):
    found = []
    for rank in range(2):
        path = tmp_path / f"hosts-{rank}.json"
        path.write_text(json.dumps([["127.0.0.1:32323"], ["127.0.0.1:32324"]]))
        found.append(launch({"MLX_RANK": str(rank), variable: str(path)}))
    assert [(one.rank, one.size) for one in found] == [(0, 2), (1, 2)]
    assert found[0].key == found[1].key != ""


@pytest.mark.parametrize("content", [None, "{", "{}", "3"])
def test_a_host_file_that_makes_no_sense_tells_no_number(tmp_path, content):
    path = tmp_path / "hosts.json"
    if content is not None:
        path.write_text(content)
    assert launch({"MLX_RANK": "0", "MLX_HOSTFILE": str(path)}).size == 1


def test_two_launches_have_different_keys_and_the_ranks_of_one_the_same():
    def key(rank, port):
        return launch({"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}).key

    assert key(0, 29500) == key(1, 29500) != key(0, 29501)
    assert launch({"RANK": "1", "WORLD_SIZE": "2"}).key == ""
