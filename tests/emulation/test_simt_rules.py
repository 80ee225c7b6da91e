"""The emulation itself: right answers where a kernel keeps CUDA's rules, words where it breaks one."""

import pytest

THREADS = 96
HALVES = [t + 1 if t % 16 != 15 else t for t in range(THREADS)]
RIGHT = {
    "sums_by_shuffle": [sum(range(t // 32 * 32, t // 32 * 32 + 32)) for t in range(THREADS)],
    "neighbor_in_half_warp": HALVES,
    "ballot_of_odd": [0xAAAAAAAA - 2**32] * THREADS,
    "half_a_warp_shuffles": [t ^ 1 if t % 32 < 16 else 0 for t in range(THREADS)],
    "reversed_through_shared": list(range(THREADS))[::-1],
    "shared_unwritten": [-1] * THREADS,
}
BROKEN = {
    "barrier_in_a_branch": "has ended",
    "two_barriers": "expected the same place",
    "shuffle_in_a_branch": "expected the same place",
    "mask_without_caller": "leaves out the caller",
    "masks_that_differ": "expected the same place and mask",
    "reads_a_lane_outside": "reads from lane 16, which takes no part",
    "writes_past_shared": "wrote next to a shared array",
    "misaligned": "misaligned",
}


@pytest.mark.parametrize("flavor", ["plain", "address", "thread"])
@pytest.mark.parametrize("kernel", RIGHT)
def test_right(run_program, flavor, kernel):
    done = run_program("simt_rules.cpp", flavor, kernel)
    assert done.returncode == 0, done.stderr
    assert [int(word) for word in done.stdout.split()] == RIGHT[kernel]


@pytest.mark.parametrize("kernel", BROKEN)
def test_broken(run_program, kernel):
    done = run_program("simt_rules.cpp", "plain", kernel)
    assert done.returncode == 1
    assert BROKEN[kernel] in done.stderr.decode()


@pytest.mark.parametrize("kernel", ["shared_without_barrier", "blocks_at_one_address"])
def test_races_are_seen(run_program, kernel):
    done = run_program("simt_rules.cpp", "thread", kernel)
    assert done.returncode != 0
    assert "data race" in done.stderr.decode()


def test_shared_arrays_are_guarded_at_once_under_address_sanitizer(run_program):
    done = run_program("simt_rules.cpp", "address", "writes_past_shared")
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr.decode()
