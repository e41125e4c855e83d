"""Machines divided among trials, counted by hand."""

import pytest

from experiments.executors import slots
from experiments.executors.slots import Division, Machine, Share, candidates, capacity, divide, here
from seg.errors import UserError


def machines(*each: tuple[int, int]) -> list[Machine]:
    return [Machine(cpus=cpus, gpus=gpus) for cpus, gpus in each]


@pytest.mark.parametrize(
    ("found", "wanted", "per_trial", "share"),
    [
        ([(8, 0)], 1, None, (8, 0)),
        ([(8, 0)], 3, None, (2, 0)),  # two cores are left over
        ([(2, 0)], 4, None, (1, 0)),  # more trials than cores
        ([(16, 4)], 1, None, (16, 4)),
        ([(16, 4)], 2, None, (8, 2)),
        ([(16, 5)], 2, None, (8, 2)),  # one GPU is left over: equal shares make equal trials
        ([(16, 4)], 2, 1, (8, 1)),
        ([(16, 4)], 8, 0, (2, 0)),
        ([(8, 0), (8, 0)], 4, None, (4, 0)),
        ([(8, 0), (4, 0)], 3, None, (4, 0)),
        ([(8, 2), (16, 4), (64, 0)], 6, None, (4, 1)),  # a machine without GPUs has no room
        ([(8, 2), (8, 2)], 1, None, (8, 2)),
    ],
)
def test_equal_shares(found, wanted, per_trial, share):
    cpus, gpus = share
    assert divide(machines(*found), wanted, per_trial) == Division(slots=wanted, share=Share(cpus=cpus, gpus=gpus))


def test_as_many_slots_as_there_is_room():
    assert divide(machines((16, 4), (8, 3)), 0, 2) == Division(slots=3, share=Share(cpus=8, gpus=2))


@pytest.mark.parametrize(
    ("wanted", "per_trial", "message"),
    [
        (3, None, r"slots must be at most the number of GPUs, 2, got 3; use 2\."),
        (2, 2, r"2 trials at a time with gpus_per_trial 2 .* 2 GPUs on 1 machine\(s\) have room for 1; use slots 1\."),
        (0, 3, r"1 trials at a time with gpus_per_trial 3 .* room for 0; use a smaller gpus_per_trial\."),
    ],
)
def test_too_few_gpus(wanted, per_trial, message):
    with pytest.raises(UserError, match=message):
        divide(machines((8, 2)), wanted, per_trial)


@pytest.mark.parametrize(
    ("found", "per_trial", "trials", "wanted"),
    [
        ([(2, 0)], None, 4, [(1, 2, 0), (2, 1, 0)]),
        ([(8, 0)], None, 100, [(1, 8, 0), (2, 4, 0), (4, 2, 0), (8, 1, 0)]),
        ([(8, 0)], None, 3, [(1, 8, 0), (2, 4, 0)]),  # a fourth slot would stay empty
        ([(16, 4)], None, 20, [(1, 16, 4), (4, 4, 1)]),
        ([(16, 4)], 0, 2, [(1, 16, 0), (2, 8, 0)]),
        ([(16, 1)], None, 20, [(1, 16, 1)]),
        ([(8, 2), (8, 2)], None, 20, [(2, 8, 2), (4, 4, 1)]),
        ([(4, 0), (4, 0)], None, 1, [(1, 4, 0)]),
    ],
)
def test_what_is_measured(found, per_trial, trials, wanted):
    divisions = candidates(machines(*found), per_trial, trials)
    assert [(each.slots, each.share.cpus, each.share.gpus) for each in divisions] == wanted


def test_capacity_counts_whole_shares_of_one_machine():
    assert capacity(machines((8, 3), (2, 1)), Share(cpus=3, gpus=1)) == 2  # 2 of the first by its cores
    assert capacity([], Share(cpus=1, gpus=0)) == 0


def test_this_machine(monkeypatch):
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert here({"CUDA_VISIBLE_DEVICES": "0,1"}) == Machine(cpus=3, gpus=2)
