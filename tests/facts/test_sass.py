"""The structure of machine code, on listings small enough to follow by eye."""

import pytest

from intraformer_fast.bench.facts import sass

NESTED = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_outer:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
.L_x_inner:
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0030*/              @!P0 BRA `(.L_x_inner) ;
        /*0040*/                   ISETP.GE.AND P1, PT, R2, UR4, PT ;
        /*0050*/               @P2 BRA `(.L_x_skip) ;
        /*0060*/                   STG.E.128 desc[UR4][R2.64], R8 ;
.L_x_skip:
        /*0070*/               @P1 BRA `(.L_x_outer) ;
        /*0080*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P6, [UR8], R2 ;
        /*0090*/              @!P6 BRA `(.L_x_wait) ;
.L_x_done:
        /*00a0*/                   EXIT ;
.L_x_wait:
        /*00b0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P6, [UR8], R2 ;
        /*00c0*/              @!P6 BRA `(.L_x_wait) ;
        /*00d0*/                   BRA `(.L_x_done) ;
.L_x_end:
        /*00e0*/                   BRA `(.L_x_end);
"""


def test_executions_of_nested_loops():
    code = sass.parse(NESTED)
    assert len(code.loops) == 3, "the jump back out of a wait is no loop, and what follows the end is never reached"
    assert len(code.working_loops) == 2
    counts = code.executions([3, 5])
    by_opcode = [(i.opcode, n) for i, n in zip(code.instructions, counts, strict=True)]
    assert by_opcode == [
        ("MOV", 1), ("IADD3", 3), ("HMMA.16816.F32.BF16", 15), ("BRA", 15), ("ISETP.GE.AND", 3), ("BRA", 3),
        ("STG.E.128", 3), ("BRA", 3), ("SYNCS.PHASECHK.TRANS64.TRYWAIT", 1), ("BRA", 1), ("EXIT", 1),
        ("SYNCS.PHASECHK.TRANS64.TRYWAIT", 0), ("BRA", 0), ("BRA", 1), ("BRA", 0),
    ]  # fmt: skip


def test_helpers_that_are_called_count_nothing():
    code = sass.parse(
        "        /*0000*/  @P0 CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_u64) ;\n"
        "        /*0010*/  EXIT ;\n"
        "$__internal_0_$__cuda_sm20_div_u64:\n"
        "        /*0020*/  MUFU.RCP R1, R1 ;\n"
        "        /*0030*/  RET.REL.NODEC R2 `(kernel) ;\n"
    )
    assert code.executions() == (1, 1, 0, 0)


def test_conditions_among_the_operands():
    code = sass.parse(
        "        /*0000*/  BRA.U !UP2, `(.L_x_1) ;\n        /*0010*/  BAR.SYNC 0x0 ;\n.L_x_1:\n        /*0020*/  EXIT ;\n"
    )
    assert code.executions() == (1, 1, 1)


def test_wrong_listings():
    with pytest.raises(ValueError, match="no instruction was found"):
        sass.parse("nothing of the kind")
    with pytest.raises(ValueError, match="the target has no label"):
        sass.parse("        /*0000*/  BRA `(.L_x_1) ;\n")


def test_widths():
    (load, store) = sass.parse(
        "        /*0000*/  LDL.LU.64 R1, [R1] ;\n        /*0010*/  STL [R1+0x4], R2 ;\n"
    ).instructions
    assert (load.width, store.width) == (8, 4)
