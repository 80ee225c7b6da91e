"""Clustering on a Ray cluster: embeddings from Parquet files, the work shared by processes anywhere, labels back as Parquet.

Ray Data reads the files (a folder, or s3://..., gs://... where pyarrow can) and writes the labels. Between the two every worker is a
rank of `pipeline.cluster_on_disk`, as torchrun's processes would be: k-NN graph and predictions go to one folder shard by shard, and a
run that lost a worker goes on there.

    pip install 'intraformer-fast[ray]'
    python examples/ray_cluster.py --model run/model.safetensors --embeddings s3://bucket/embeddings --work /shared/run --workers 8
"""

import argparse
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

try:
    import ray
except ModuleNotFoundError as error:
    raise SystemExit("This example needs Ray: pip install 'intraformer-fast[ray]'") from error

import intraformer_fast as ifast
from intraformer_fast import pipeline
from intraformer_fast.data import synthetic
from intraformer_fast.distributed import ranks
from intraformer_fast.shards import scratch_array, write_npy
from intraformer_fast.training import TrainingConfig


@ray.remote(num_cpus=1)
class Worker:
    """One rank, on whatever machine Ray puts it."""

    def address(self) -> tuple[str, int]:
        """Where the others are to meet this worker."""
        with socket.socket() as found:
            found.bind(("", 0))
            return ray.util.get_node_ip_address(), found.getsockname()[1]

    def cluster(self, rank: int, size: int, meet: tuple[str, int], model: str, work: str) -> np.ndarray | None:
        """Labels of all samples on rank 0, None on the others."""
        address, port = meet
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
        trained, linking = pipeline.load_fitted(model)
        features = np.load(Path(work) / "features.npy", mmap_mode="r")
        with ranks() as of:
            return pipeline.cluster_on_disk(trained, linking, features, work, ranks=of, progress=False)


def batches(embeddings: str) -> Iterator[dict[str, np.ndarray]]:
    """Of the columns `id` (0, 1, ...) and `embedding` (a list of floats)."""
    return iter(ray.data.read_parquet(embeddings).iter_batches(batch_size=4096, batch_format="numpy"))


def fetch(embeddings: str, work: Path) -> int:
    """The embeddings in the order of their ids as work/features.npy, one batch in memory at a time; how many there are."""
    total = ray.data.read_parquet(embeddings).count()
    table = None
    for batch in batches(embeddings):
        rows = np.stack(list(batch["embedding"])).astype(np.float32)
        if table is None:
            table = scratch_array(work, total * rows.shape[1], "<f4").reshape(total, rows.shape[1])
        table[batch["id"]] = rows
    if table is None:
        raise SystemExit(f"{embeddings} holds no rows")
    with write_npy(work / "features.npy", table.shape, "<f4") as file:
        file.write(table.data)
    return total


def cluster(model: str, work: Path, workers: int) -> np.ndarray:
    """Labels of work/features.npy by so many workers; one that is killed ends the run with ray.exceptions.RayActorError."""
    started = [Worker.remote() for _ in range(workers)]
    meet = ray.get(started[0].address.remote())
    answers = [one.cluster.remote(rank, workers, meet, model, str(work)) for rank, one in enumerate(started)]
    return next(labels for labels in ray.get(answers) if labels is not None)


def example_model(folder: Path) -> str:
    """A model that knows made-up identities a little."""
    known = synthetic(1500, dim=16, mean_size=10, noise=0.6)
    data = pipeline.prepare(known.features, known.labels, 12)
    shape = {"embed_dim": 16, "num_neighbors": 12, "num_subclusters": 2, "num_layers": 1, "num_heads": 2}
    config = TrainingConfig.from_preset("small", epochs=2, batch_size=32)
    pipeline.fit(data, {**shape, "similarity_input": True}, config, folder, progress=False)
    return str(folder / "model.safetensors")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="made-up data and a model for them, two workers")
    parser.add_argument("--model", help="model.safetensors of a training, on a disk that all machines see")
    parser.add_argument("--embeddings", help="folder or URI of Parquet files: columns id and embedding")
    parser.add_argument("--work", type=Path, help="folder that all machines see")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if not options.small and None in (options.model, options.embeddings, options.work):
        parser.error("--model, --embeddings and --work are needed, or --small")
    ray.init(ignore_reinit_error=True, include_dashboard=False, num_cpus=options.workers + 1 if options.small else None)
    with tempfile.TemporaryDirectory() as scratch:
        model, embeddings, work = options.model, options.embeddings, options.work
        if options.small:
            work, embeddings = Path(scratch) / "run", str(Path(scratch) / "embeddings")
            model = example_model(Path(scratch) / "model")
            made = synthetic(3000, dim=16, mean_size=10, noise=0.6, seed=1).features
            rows = [{"id": i, "embedding": row} for i, row in enumerate(made)]
            ray.data.from_items(rows, override_num_blocks=2).random_shuffle(seed=0).write_parquet(embeddings)
        work.mkdir(parents=True, exist_ok=True)
        total = fetch(embeddings, work)
        started = time.perf_counter()
        labels = cluster(model, work, options.workers)
        seconds = time.perf_counter() - started
        found = [{"id": i, "cluster": int(label)} for i, label in enumerate(labels)]
        ray.data.from_items(found, override_num_blocks=options.workers).write_parquet(str(work / "clusters"))
        if options.small:
            trained, linking = pipeline.load_fitted(model)
            alone = pipeline.cluster(trained, linking, made, progress=False)
            score = ifast.metrics.pairwise_f(alone, labels)
            print(f"parity: pairwise F of {score:.4f} with the labels of one process in memory")
            assert score == 1
        print(f"speed: {total} samples in {seconds:.1f} s by {options.workers} workers: {work / 'clusters'}")
    ray.shutdown()


if __name__ == "__main__":
    main()
