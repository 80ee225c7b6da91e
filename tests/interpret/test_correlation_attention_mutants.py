"""C-ATT kernels with one thing broken: the tests of the right ones have to tell."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases.correlation_attention import Case, assert_parity

from intraformer_fast.kernels.correlation_attention import configs, launch, products

ROOM = Path(launch.__file__).parent
FILES = ("forward", "backward", "projection", "tiles")
HALF = torch.bfloat16
WHOLE, PARTS = 90, 80


def members_ask():
    return Case.draw(2, 33, 13, 32, 1, HALF, masked=True)


def many_queries():
    return Case.draw(1, 70, 9, 32, 1, HALF)


def anchor_asks():
    return Case.draw(2, 37, 13, 32, 3, HALF, anchor_asks=True, masked=True)


def three_streams():
    return Case.draw(3, 37, 13, 32, 3, HALF)


def wider_rows():
    return Case.draw(2, 20, 9, 80, 1, HALF, layout="wider rows")


def wide():
    return Case.draw(1, 20, 9, 144, 1, torch.float32)


def table_asks():
    return Case.gather((3, 26), (3, 9), (None, 20), 32, 3, HALF, anchor_asks=True)


def two_tables():
    """Ids of which a slice of the columns is taken: both their strides count."""
    case = Case.gather((3, 20), (3, 9), (30, 20), 32, 1, HALF)
    wide = torch.full((3, 40), 31)
    wide[:, ::2] = case.member_ids
    return replace(case, member_ids=wide[:, ::2])


# File, what it says, what the mutant says instead, a case that shows it, and the GPU whose kernels are launched.
MUTANTS = {
    "the context is not masked": ("forward", 'tl.where(m_s, b_s, -float("inf"))', "b_s", members_ask, WHOLE),
    "an empty context is not looked at": ("tiles", "tl.where(b_sum == 0.0, 1.0, b_sum)", "b_sum", members_ask, WHOLE),
    "padding is context": ("forward", "GATHER_C, p_valid is not None", "GATHER_C, False", members_ask, PARTS),
    "the longer runs are not": ("tiles", "+ tl.minimum(i_run, longer)", "", anchor_asks, WHOLE),
    "runs are all alike": ("tiles", "size + (i_run < longer).to(tl.int32)", "size", anchor_asks, PARTS),
    "not normalised": ("tiles", "b_p / tl.where(b_sum == 0.0, 1.0, b_sum)[None, :]", "b_p", members_ask, PARTS),
    "every run asks the first": ("forward", "i_run.to(tl.int64) * stride_z_r", "0", anchor_asks, WHOLE),
    "every run looks at the first": ("forward", "o_c = c_start + tl", "o_c = tl", anchor_asks, WHOLE),
    "runs are answered in the first": ("forward", "(q_start + o_q.to(tl.int64))", "o_q.to(tl.int64)", anchor_asks, WHOLE),
    "the wrong stride": ("forward", "i_c[:, None] * stride_c_n", "i_c[:, None] * stride_z_q", wider_rows, WHOLE),
    "unguarded queries": ("forward", "m_run = o_q < q_size", "m_run = o_q < BM", members_ask, PARTS),
    "every tile of a run is the first": ("forward", "o_q = i_part * BM + tl", "o_q = tl", many_queries, PARTS),
    "an unguarded chunk": ("forward", "m_v = (v + o_v < D)", "m_v = (v + o_v < D + BV)", wider_rows, PARTS),
    "one chunk of the scores": ("forward", "tl.dot(b_c, tl.trans(b_z), b_s,", "tl.dot(b_c, tl.trans(b_z),", wide, PARTS),
    "an unguarded width": ("backward", "m_d = (o_d < D)[None, :]", "m_d = (o_d < BD)[None, :]", wider_rows, WHOLE),
    "no delta": ("backward", "b_dp - tl.sum(b_p * b_dp, 0)[None, :]", "b_dp", members_ask, WHOLE),
    "dX_c without its term as keys": ("backward", "tl.join(b_ds, b_p)", "tl.join(b_ds * 0.0, b_p)", members_ask, WHOLE),
    "dX_c without its term as values": ("backward", "tl.join(b_ds, b_p)", "tl.join(b_ds, b_p * 0.0)", members_ask, PARTS),
    "dX_c with its terms exchanged": ("backward", "tl.join(b_ds, b_p)", "tl.join(b_p, b_ds)", members_ask, WHOLE),
    "the turns are exchanged": ("backward", "o_y % 2 == 0", "o_y % 2 == 1", members_ask, PARTS),
    "dX_c of the last queries alone": ("backward", "tl.dot(b_x, b_y, b_grad_c)", "tl.dot(b_x, b_y)", members_ask, WHOLE),
    "unguarded gradients": ("backward", "o_q, o_q < q_size, num_z", "o_q, o_q < q_size + BM, num_z", members_ask, WHOLE),
    "G of every run in the first": ("backward", "i_run.to(tl.int64) * stride_g_r", "0", anchor_asks, WHOLE),
    "masked tokens get no gradient": ("backward", "mask=m_run[:, None] & m_w", "mask=m_c[:, None] & m_w", members_ask, PARTS),
    "every slice is the first": ("backward", "o_w = i_slice * BW + tl", "o_w = tl", wide, PARTS),
    "an unguarded slice": ("backward", "m_v = (v + o_v < D)", "m_v = (v + o_v < D + BV)", wider_rows, PARTS),
    "every stream has the first matrix": ("projection", "i_stream.to(tl.int64) * stride_w_m", "0", three_streams, WHOLE),
    "rows of one cluster": ("projection", "o_b * stride_b + ", "", three_streams, WHOLE),
    "every stream has the first rows": ("projection", "(start + o_row % size)", "(o_row % size)", three_streams, WHOLE),
    "unguarded rows": ("projection", "m_row = (o_row < last)", "m_row = (o_row < last + BK)", three_streams, WHOLE),
    "context ids are not looked at": ("forward", "= p_c_ids is not None", "= False", two_tables, WHOLE),
    "query ids are not looked at": ("backward", "= p_z_ids is not None", "= False", two_tables, PARTS),
    "ids of the first cluster": ("rows", "p_ids + i_cluster * stride_ids_b", "p_ids", two_tables, WHOLE),
    "ids a column apart": ("rows", "+ i_row * stride_ids_t, mask", "+ i_row, mask", two_tables, PARTS),
    "an unguarded id": ("rows", "(i_row >= 0) & (i_row < num_samples)", "i_row < num_samples", two_tables, WHOLE),
    "padding asks": ("forward", "m_s = m_s & m_q[None, :]", "m_s = m_s", two_tables, PARTS),
    "gradients of padding count": ("backward", ", m_q[:, None]", ", m_q[:, None] | (o_y % 2 > 0)[:, None]", two_tables, WHOLE),
    "Z of the first run": ("backward", "i_run.to(tl.int64) * stride_z_r", "0", table_asks, PARTS),
    "gradients by id": ("backward", "p_grad + o_q.to(tl.int64)", "p_grad + i_q", table_asks, WHOLE),
    "context by place": ("backward", "i_c[:, None] * stride_c_n", "o_c[:, None] * stride_c_n", two_tables, PARTS),
    "dW without its first row": ("projection", "in range(first, last, BK)", "in range(first + 1, last, BK)", three_streams, WHOLE),
}  # fmt: skip


@pytest.fixture
def mutated(tmp_path, monkeypatch):
    """mutated(file, old, new): the kernels with that text replaced, in the launches."""
    monkeypatch.syspath_prepend(tmp_path)

    def replace(file, old, new):
        texts = {name: (ROOM / f"{name}.py").read_text() for name in FILES}
        texts["rows"] = (ROOM.parent / "common" / "rows.py").read_text()
        assert old in texts[file], f"{file}.py does not say {old!r} any more: change the mutant with it"
        texts[file] = texts[file].replace(old, new)
        prefix = f"mutant_{tmp_path.name.replace('-', '_')}"
        for name, text in texts.items():
            text = text.replace("from .tiles", f"from {prefix}_tiles")
            text = text.replace("intraformer_fast.kernels.common.rows", f"{prefix}_rows")
            (tmp_path / f"{prefix}_{name}.py").write_text(text)
        for module, attribute in ((launch, "forward_kernels"), (launch, "backward_kernels"), (products, "projection")):
            name = attribute.removesuffix("_kernels")
            monkeypatch.setattr(module, attribute, importlib.import_module(f"{prefix}_{name}"))

    return replace


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, mutated, device, monkeypatch):
    file, old, new, draw, capability = MUTANTS[name]
    mutated(file, old, new)
    monkeypatch.setattr(configs, "capability_of", lambda device: capability)
    case = draw()
    # By a wrong number, or by what ttsem raises: an access out of bounds, a race.
    with pytest.raises(Exception, match=r"times eager's|past the end|before the start|both touch|undefined"):
        assert_parity(case, case.run(launch, device))


def test_what_is_not_mutated_is_not_caught(mutated, device):
    mutated("forward", "b_out", "b_out")
    case = members_ask()
    assert_parity(case, case.run(launch, device))
