"""The command `intraformer-fast`. Exit codes: 0 done, 1 our bug, 2 wrong usage, 3 input or environment at fault, 130 Ctrl-C."""

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from intraformer_fast.cli_bench import bench
from intraformer_fast.cli_options import (
    BackendOption,
    DimOption,
    FeaturesArgument,
    JsonOption,
    LabelsArgument,
    MemoryOption,
    QuietOption,
    WorkOption,
    example,
    show,
    size_in_bytes,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Transformer-based visual clustering over k-NN graphs.",
)


@app.command(epilog=example("demo --output report"))
def demo(
    output: Annotated[Path, typer.Option(help="Folder of the page and the models.")] = Path("report"),
    epochs: Annotated[int | None, typer.Option(help="Of each training; the preset's by default.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted demo in that folder.")] = True,
    backend: BackendOption = "auto",
) -> None:
    """Train on the packaged glyphs, cluster unseen characters, compare with classical methods, write an HTML report."""
    from intraformer_fast.demo import run_demo

    page, tables = run_demo(
        output, epochs=epochs, resume=resume, backend=backend, say=lambda line: typer.echo(line, err=True)
    )
    typer.echo(f"{tables}\n\nThe report: {page}")


@app.command(epilog=example("knn features.npy --k 80 --output knn.npz"))
def knn(
    features: FeaturesArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The graph, a learn-to-cluster .npz: ids and cosine distances. With --work it may be left out."
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="Neighbours of a sample, itself included.")] = 80,
    index: Annotated[str, typer.Option(help="auto, exact, ivf, hnsw or nndescent.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    work: WorkOption = None,
    memory: MemoryOption = None,
    dim: DimOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build the k-NN graph of a feature file.

    With --work it is made in shards of that folder, where `cluster --work` with the same folder finds it.
    """
    from intraformer_fast.data import read_features, write_neighbors
    from intraformer_fast.distributed import ranks
    from intraformer_fast.graph import knn_graph, knn_shards
    from intraformer_fast.pipeline import GRAPH

    if work is None and output is None:
        raise typer.BadParameter("nowhere to write to: give --output, or --work for a graph in shards")
    if work is None and memory is not None:
        raise ValueError("--memory belongs to --work: give a folder for it")
    x = read_features(features, dim=dim)
    result: dict[str, Any] = {"output": None if output is None else str(output), "samples": len(x), "k": k}
    said = f"{len(x)} samples with {k} neighbours each: {output or work}"
    if work is None:
        tables: Any = knn_graph(x, k, index=index, device=device)
    else:
        limit = None if memory is None else size_in_bytes(memory)
        with ranks() as of:
            graph = knn_shards(
                x, k, work / GRAPH, index=index, device=device, memory=limit, ranks=of, progress=not quiet
            )
            if not of.is_first:
                return
        result |= {"work": str(work), **graph.search}
        said += f"; {graph.search['index']}, {100 * graph.search['recall']:.1f} % of a sample's neighbours found"
        tables = None if output is None else graph.tables()
    if output is not None:
        write_neighbors(output, *tables)
    show(result, as_json, said)


@app.command(epilog=example("train features.npy labels.npy --output runs/first"))
def train(
    features: FeaturesArgument,
    labels: LabelsArgument,
    output: Annotated[Path, typer.Option(help="Folder of the model, its checkpoints and its history.")],
    preset: Annotated[str, typer.Option(help="small, small-paper or paper.")] = "small",
    subclusters: Annotated[int | None, typer.Option(help="k; the preset's by default.")] = None,
    neighbors: Annotated[int | None, typer.Option(help="n; the preset's by default.")] = None,
    epochs: Annotated[int | None, typer.Option(help="The preset's by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Clusters a step; the preset's by default.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The preset's by default.")] = None,
    fairness_weight: Annotated[float | None, typer.Option(help="Weight of the fairness loss; 1 by default.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    validation: Annotated[float, typer.Option(help="Fraction of the identities held out to choose by.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Of the split, the model's start and the order of the clusters.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted training in that folder.")] = True,
    backend: BackendOption = "auto",
    dim: DimOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model and choose its linking rule on identities held out of training; torchrun's processes share every batch."""
    from intraformer_fast import presets
    from intraformer_fast.data import read_features, read_labels
    from intraformer_fast.distributed import ranks
    from intraformer_fast.pipeline import fit, prepare
    from intraformer_fast.training import TrainingConfig
    from intraformer_fast.training.output import MODEL

    chosen = presets.preset(preset)
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "fairness_weight": fairness_weight,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    config = TrainingConfig.from_preset(preset, precision=precision, seed=seed, **overrides)
    shape = {"num_subclusters": subclusters, "num_neighbors": neighbors}
    options = {
        **chosen.model,
        **{name: value for name, value in shape.items() if value is not None},
        "backend": backend,
    }
    x, y = read_features(features, dim=dim), read_labels(labels)
    data = prepare(x, y, options["num_neighbors"], validation=validation, seed=seed)
    with ranks() as of:
        fitted = fit(data, options, config, output, resume=resume, ranks=of, progress=not quiet)
        if not of.is_first:
            return
    best = fitted.tried[0]
    result = {
        "model": str(output / MODEL),
        "linking": fitted.linking.to_dict(),
        "validation": {"pairwise_f": best.pairwise_f, "bcubed_f": best.bcubed_f},
        "best_epoch": fitted.training.best_epoch,
        "history": fitted.training.history,
    }
    text = (
        f"{output / MODEL}: epoch {fitted.training.best_epoch} was best; linking {fitted.linking}; "
        f"validation F_P {100 * best.pairwise_f:.1f}, F_B {100 * best.bcubed_f:.1f}"
    )
    show(result, as_json, text)


@app.command(epilog=example("cluster runs/first/model.safetensors features.npy --output clusters.npy"))
def cluster(
    model: Annotated[Path, typer.Argument(help="model.safetensors of a training.", metavar="MODEL")],
    features: FeaturesArgument,
    output: Annotated[Path, typer.Option(help="Labels, one a sample: .npy or .meta.")],
    knn: Annotated[Path | None, typer.Option(help="A graph from `knn`; built anew where it is not given.")] = None,
    rule: Annotated[str | None, typer.Option(help="Linking rule; the one chosen in training by default.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Of the linking; the chosen one by default.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, or int8 on the CPU.")] = "auto",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu or cuda.")] = "cpu",
    backend: BackendOption = "auto",
    work: WorkOption = None,
    index: Annotated[str, typer.Option(help="With --work: auto, exact, ivf, hnsw or nndescent.")] = "auto",
    memory: MemoryOption = None,
    cascade: Annotated[
        float,
        typer.Option(
            help="With --work: mean probability at the end of a sub-cluster below which later ones are left out; 0 is exact."
        ),
    ] = 0.0,
    dim: DimOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Cluster a feature file with a trained model."""
    from intraformer_fast import pipeline
    from intraformer_fast.data import read_features, write_labels
    from intraformer_fast.distributed import ranks

    if work is None and (index, memory, cascade) != ("auto", None, 0.0):
        raise ValueError("--index, --memory and --cascade belong to --work: give a folder for it")
    if work is not None and knn is not None:
        raise ValueError("--knn and --work exclude each other: the folder holds a graph of its own")
    trained, linking = pipeline.load_fitted(model, rule=rule, threshold=threshold, device=device, backend=backend)
    x = read_features(features, dim=dim)
    options: dict[str, Any] = {"precision": precision, "progress": not quiet}
    if work is None:
        labels = pipeline.cluster(trained, linking, x, graph_file=knn, **options)
    else:
        limit = None if memory is None else size_in_bytes(memory)
        with ranks() as of:
            answer = pipeline.cluster_on_disk(
                trained, linking, x, work, index=index, memory=limit, cascade=cascade, ranks=of, **options
            )
        if answer is None:
            return
        labels = answer
    write_labels(output, labels)
    found = int(labels.max()) + 1
    show(
        {"output": str(output), "samples": len(labels), "clusters": found, "linking": linking.to_dict()},
        as_json,
        f"{len(labels)} samples in {found} clusters by {linking}: {output}",
    )


@app.command(epilog=example("evaluate labels.npy clusters.npy --groups groups.npy"))
def evaluate(
    labels: LabelsArgument,
    prediction: Annotated[Path, typer.Argument(help="Predicted labels; -1 is noise.", metavar="PREDICTION")],
    groups: Annotated[Path | None, typer.Option(help="The group of each sample: .npy or .meta.")] = None,
    protocol: Annotated[str, typer.Option(help="joint or separate: how the prediction was made.")] = "joint",
    as_json: JsonOption = False,
) -> None:
    """Score a clustering: pairwise F, BCubed F, NMI and FMI, and their spread over groups."""
    from intraformer_fast import metrics
    from intraformer_fast.data import check_same_length, read_labels

    y, predicted = read_labels(labels), read_labels(prediction)
    if groups is None:
        check_same_length(labels=y, predictions=predicted)
        scores = metrics.scores(y, predicted)
        text = "\n".join(
            f"{name:<10}{100 * value:7.2f}"
            for name, value in (
                ("F_P", scores.pairwise_f),
                ("F_B", scores.bcubed_f),
                ("NMI", scores.nmi),
                ("FMI", scores.fmi),
            )
        )
        show(scores.to_dict(), as_json, text)
        return
    of = read_labels(groups)
    check_same_length(labels=y, predictions=predicted, groups=of)
    report = metrics.fairness_report(y, predicted, of, protocol)  # type: ignore[arg-type]
    show(report.to_dict(), as_json, str(report))


app.command(epilog=example("bench purity_fmi --output benchmarks"))(bench)


@app.command(epilog=example("profile features.npy --output profile --trace"))
def profile(
    features: Annotated[
        Path | None, typer.Argument(help="A feature file; without one --samples are made up.", metavar="FEATURES")
    ] = None,
    knn: Annotated[Path | None, typer.Option(help="A graph from `knn`; searched where it is not given.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="model.safetensors of a training; made up where it is not given.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Of a made-up model: small, small-paper or paper.")] = "small",
    samples: Annotated[int | None, typer.Option(min=2, help="Made-up samples; 20,000 by default.")] = None,
    dim: Annotated[int | None, typer.Option(help="Width of made-up samples, or of the rows of a .bin file.")] = None,
    neighbors: Annotated[int | None, typer.Option(min=2, help="n of a made-up model; the preset's by default.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, or int8 on the CPU.")] = "auto",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu or cuda.")] = "cpu",
    backend: BackendOption = "auto",
    seconds: Annotated[float, typer.Option(help="About how long the model is measured, and what to try again.")] = 20.0,
    output: Annotated[Path | None, typer.Option(help="Folder of profile.txt and profile.json.")] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="With --output: trace.json, for chrome://tracing or ui.perfetto.dev.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Where time and memory of clustering a set would go, measured on a part of it, and what to try."""
    # Read as torch is imported: its profiler would tell on standard error that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from intraformer_fast import profiling

    subject = profiling.load_subject(
        features,
        graph=knn,
        model=model,
        preset_name=preset,
        samples=samples,
        dim=dim,
        neighbors=neighbors,
        device=device,
        backend=backend,
    )
    found = profiling.profile(subject, precision=precision, seconds=seconds, output=output, trace=trace)
    show(found.to_dict(), as_json, str(found))


@app.command(epilog=example("info --estimate --samples 5200000"))
def info(
    estimate: Annotated[bool, typer.Option("--estimate", help="What clustering costs at least, instead.")] = False,
    samples: Annotated[int, typer.Option(help="Of the estimate.", min=1)] = 5_200_000,
    as_json: JsonOption = False,
) -> None:
    """What this installation is made of and can use; or what the paper's model costs on so many samples, here and on a GPU."""
    if estimate:
        return show_estimates(samples, as_json)
    from intraformer_fast.installation import info as gather

    found = gather()
    rows = {name: value for name, value in found.items() if name not in ("native", "packages")}
    rows |= {"torch_cuda": found["torch_cuda"] or "none", "cuda": ", ".join(found["cuda"]) or "no device"}
    rows |= native_rows(found["native"])
    rows |= {name: version or "not installed" for name, version in found["packages"].items()}
    show(found, as_json, "\n".join(f"{name:<16}{value}" for name, value in rows.items()))
    return None


def show_estimates(samples: int, as_json: bool) -> None:
    """The stages of clustering so many samples with the paper's settings, on the CPU here and two GPUs."""
    from dataclasses import asdict

    from intraformer_fast import cost

    found = [stage for device in ("cpu", "A100", "H100") for stage in cost.estimate_pipeline(samples, device)]
    lines = [
        f"{samples} samples with the paper's settings, predicted from operations, least bytes and published rates:"
    ]
    show(
        {"samples": samples, "estimates": [asdict(stage) for stage in found]},
        as_json,
        "\n".join([*lines, *map(str, found)]),
    )


def native_rows(native: Mapping[str, Any]) -> dict[str, str]:
    """What `native.info` gives, in lines for people."""
    state = {
        name: native[name] if native[name] == "loaded" else f"not loaded: {native[name]}" for name in ("cpu", "cuda")
    }
    if native["cpu_instruction_set"]:
        state["cpu"] += f", instruction set {native['cpu_instruction_set']}"
    rows = {"CPU library": state["cpu"], "CUDA library": state["cuda"]}
    if built := native["build"]:
        nvcc = f"nvcc {built['cuda_compiler'].split()[-1]}" if built["cuda_compiler"] else "no nvcc"
        rows["built with"] = (
            f"{built['cxx_compiler']}, {nvcc}, torch {built['torch_headers']} (serves {built['torch_minimum']} and later)"
        )
        rows["built for"] = f"CPU {built['cpu_instruction_sets']}; CUDA {built['cuda_architectures'] or 'not built'}"
    return rows


def fail(message: str, code: int) -> NoReturn:
    """One sentence on standard error, and the exit code."""
    typer.echo(f"intraformer-fast: {message}", err=True)
    sys.exit(code)


def main() -> None:
    """Run the command; what the user can mend is told in a sentence, what they cannot keeps its traceback."""
    try:
        app()
    except KeyboardInterrupt:
        fail("interrupted; an interrupted training goes on where it stopped when the same command is run again", 130)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            fail(f"the disk is full, nothing was half-written: {error}", 3)
        fail(str(error), 3)
    except (ValueError, TypeError, ImportError, NotImplementedError, FloatingPointError, MemoryError) as error:
        fail(str(error) or type(error).__name__, 3)
