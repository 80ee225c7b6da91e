"""Run by test_ranks.py in a process of its own: a training by one process, by two, and by two of which one is killed.

Each attempt is a forked child, since starting torch anew would take seconds. Usage: trained_by_ranks.py FOLDER
"""

import importlib.util
import json
import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from intraformer_fast.distributed import ranks
from intraformer_fast.training import TrainingConfig, train

SHARED = importlib.util.spec_from_file_location("shared", Path(__file__).with_name("conftest.py"))
shared = importlib.util.module_from_spec(SHARED)
SHARED.loader.exec_module(shared)

CONFIG = TrainingConfig(
    epochs=3, batch_size=13, learning_rate=3e-3, checkpoint_every=4, fairness_warmup=0.0, precision="fp32"
)


def attempt(folder, rank=0, size=1, port=0, before=lambda: None, config=CONFIG):
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        before()
        data = shared.make_samples(12)
        data.neighbors[::5, 11:] = -1
        with ranks() as of:
            # The first's weights are what counts.
            model = shared.make_model(seed=rank)
            validation = shared.make_samples(6, seed=1).as_validation()
            train(
                model,
                data.features,
                data.labels,
                data.neighbors,
                config=config,
                validation=validation,
                output_dir=folder,
                ranks=of,
                progress=False,
            )
        torch.save(model.state_dict(), f"{folder}-{rank}.pt")
    except BaseException as error:
        print(repr(error)[:300], file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def pair(folder, **options_of_the_second):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    config = options_of_the_second.pop("config", CONFIG)
    children = [
        attempt(folder, 0, 2, port, config=config),
        attempt(folder, 1, 2, port, config=config, **options_of_the_second),
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in reversed(children)]


def die_at_step(count):
    genuine, calls = torch.optim.AdamW.step, []

    def step(self, *arguments):
        calls.append(self)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return genuine(self, *arguments)

    torch.optim.AdamW.step = step


def distance(a, b):
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


def main(folder):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.optim.AdamW([torch.zeros(1)], fused=True)
    report = {"one": os.waitstatus_to_exitcode(os.waitpid(attempt(folder / "one"), 0)[1])}
    report["two"] = pair(folder / "two")
    started = time.monotonic()
    report["killed"] = pair(folder / "killed", before=lambda: die_at_step(17))
    report["seconds"] = time.monotonic() - started
    report["steps"] = len(json.loads((folder / "killed" / "history.json").read_text()))
    report["resumed"] = pair(folder / "killed")
    # As many batches as samples: one is left without.
    report["too small"] = pair(folder / "small", config=TrainingConfig(epochs=1, batch_size=1))
    first, second, again = (
        torch.load(f"{folder / name}.pt", weights_only=True) for name in ("two-0", "two-1", "killed-0")
    )
    one = load_file(folder / "one" / "model.safetensors")
    report["ranks agree"] = all(torch.equal(first[name], second[name]) for name in first)
    report["resumed is unbroken"] = all(torch.equal(first[name], again[name]) for name in first)
    # Over all weights: Adam moves those whose gradient is rounding alone (the keys' biases) as far as any other.
    report["from one process"] = distance(first, one)
    report["from the start"] = distance(shared.make_model().state_dict(), one)
    report["histories"] = [json.loads((folder / name / "history.json").read_text()) for name in ("one", "two")]
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
