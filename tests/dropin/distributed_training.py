"""One of two processes that train the drop-in modules together by DistributedDataParallel; fails where their gradients are not those of
the whole batch. Run by test_works_under.py with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set."""

import copy

import torch
from torch import nn

import intraformer_fast as ifast


def main() -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(
        ifast.nn.FusedEncoderLayer(32, 2, 64, 0.0, batch_first=True), ifast.nn.Intraformer(32, 12, 3, 2, 2)
    )
    alone = copy.deepcopy(model)
    parallel = nn.parallel.DistributedDataParallel(model)
    x = torch.randn(4, 12, 32)
    parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
    alone(x).square().mean().backward()
    for ours, right in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, right.grad, rtol=1e-4, atol=1e-5)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
