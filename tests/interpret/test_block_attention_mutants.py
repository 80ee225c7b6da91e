"""Kernels with one thing broken: the tests of the right ones have to tell."""

import importlib
from pathlib import Path

import pytest
import torch
from cases.block_attention import Case, GatherCase, assert_parity

from intraformer_fast.kernels.block_attention import launch

ROOM = Path(launch.__file__).parent
COMMON = ROOM.parent / "common"
HALF = torch.bfloat16


def tiles():
    return Case.draw((3, 2, 37, 16), 4, HALF, masked=True)


def several_runs_a_tile():
    return Case.draw((3, 2, 23, 16), 5, HALF)


def loops():
    return Case.draw((2, 1, 70, 16), 1, HALF, masked=True)


def long_loops():
    """The largest score of a query may stand in any tile of keys."""
    return Case.draw((1, 1, 200, 16), 1, HALF, size=2.0)


def narrow_heads():
    return Case.draw((2, 2, 24, 11), 2, HALF)


def heads_apart():
    return Case.draw((2, 2, 24, 16), 2, HALF, layout="width outermost")


def gathering():
    return GatherCase.draw(30, 2, 16, (5, 23), 2, torch.float32)


def often():
    """Every sample at more places than are summed at once."""
    return GatherCase.draw(2, 1, 16, (4, 16), 2, torch.float32)


# File, what it says, what the mutant says instead, and a case that shows it.
MUTANTS = {
    "keys are not masked": ("forward", 'tl.where(m_key, b_scores, -float("inf"))', "b_scores", tiles),
    "runs see one another": ("forward", "i_local[:, None] == i_local[None, :]", "i_local[:, None] >= 0", several_runs_a_tile),
    "padding is answered": ("forward", "tl.where((m_token | m_wrong)[:, None], b_out, 0.0)", "b_out", tiles),
    "the longer runs are not": ("rows", "+ tl.minimum(i_block, longer)", "", tiles),
    "lengths are all alike": ("rows", "size + (i_block < longer).to(tl.int32)", "size", tiles),
    "heads in another order": ("rows", "i_run // num_heads % num_blocks", "i_run % num_blocks", tiles),
    "values stand as keys do": ("forward", "i_source * stride_v_t", "i_source * stride_q_d", heads_apart),
    "a stride of one": ("rows", ".to(tl.int64) * stride_d", "", heads_apart),
    "an unguarded tail of the width": ("rows", "m_all & (o_d < D)[None, :]", "m_all", narrow_heads),
    "an unguarded tail of the run": ("forward", "m_row = i_in_run < length", "m_row = i_in_run < num_tiles * ROWS", loops),
    "the last keys are not masked": ("forward", "i_key < length", "i_key < length + KEYS", loops),
    "the sum is not rescaled": ("forward", "b_sum * b_shrink", "b_sum", loops),
    "the output is not rescaled": ("forward", "b_out * b_shrink[:, None]", "b_out", loops),
    "the output is not normalised": ("forward", "b_out = b_out * (1.0 / tl.where(b_sum == 0.0, 1.0, b_sum))[:, None]", "", loops),
    "no transpose in dK": ("backward", "tl.dot(tl.trans(b_ds), b_q", "tl.dot(b_ds, b_q", tiles),
    "no transpose in dV": ("backward", "tl.trans(b_p.to(b_grad.dtype))", "b_p.to(b_grad.dtype)", tiles),
    "no delta": ("backward", "b_dp - tl.sum(b_p * b_dp, 1)[:, None]", "b_dp", tiles),
    "no scale in dQ": ("backward", "b_k, input_precision=PRECISION) * scale", "b_k, input_precision=PRECISION)", tiles),
    "no scale in the loop's dQ": ("backward", "b_grad_q * scale", "b_grad_q", loops),
    "delta is not rescaled": ("backward", "b_delta * b_shrink", "b_delta", long_loops),
    "keys use the delta of others": ("backward", "p_statistics + 2 * stride_statistics + i_at", "p_statistics + i_at", loops),
    "queries of the loop are not masked": ("backward", "m_in = i_query < length", "m_in = i_query < length + ROWS", loops),
    "padding is a sample": ("rows", "m_row = (i_row >= 0) & (i_row < num_samples)", "m_row = i_row < num_samples", gathering),
    "the first place alone": ("scatter", "range(i_place, end, PLACES)", "range(i_place, i_place + 1, PLACES)", often),
    "every place for itself": ("scatter", "i_sample > before", "i_sample >= before", gathering),
}  # fmt: skip


@pytest.fixture
def mutated(tmp_path, monkeypatch):
    """mutated(file, old, new): the kernels with that text replaced, in the launches."""
    monkeypatch.syspath_prepend(tmp_path)

    def replace(file, old, new):
        texts = {name: (ROOM / f"{name}.py").read_text() for name in ("forward", "backward")}
        texts |= {name: (COMMON / f"{name}.py").read_text() for name in ("rows", "scatter")}
        assert old in texts[file], f"{file}.py does not say {old!r} any more: change the mutant with it"
        texts[file] = texts[file].replace(old, new)
        prefix = f"mutant_{tmp_path.name.replace('-', '_')}"
        for name, text in texts.items():
            text = text.replace("intraformer_fast.kernels.common.rows", f"{prefix}_rows")
            text = text.replace("from .launches", "from intraformer_fast.kernels.common.launches")
            (tmp_path / f"{prefix}_{name}.py").write_text(text)
        for attribute in ("forward_kernels", "backward_kernels", "scatter"):
            name = attribute.removesuffix("_kernels")
            monkeypatch.setattr(launch, attribute, importlib.import_module(f"{prefix}_{name}"))

    return replace


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, mutated, device):
    file, old, new, draw = MUTANTS[name]
    mutated(file, old, new)
    case = draw()
    # By a wrong number, or by what ttsem raises: an access out of bounds, a race.
    with pytest.raises(Exception, match=r"times eager's|past the end|before the start|both touch|undefined"):
        assert_parity(case, case.run(launch, device))


def test_what_is_not_mutated_is_not_caught(mutated, device):
    mutated("forward", "b_scores", "b_scores")
    case = tiles()
    assert_parity(case, case.run(launch, device))
