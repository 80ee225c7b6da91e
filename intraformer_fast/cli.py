"""The command `intraformer-fast`. Exit codes: 0 done, 1 our bug, 2 wrong usage, 3 input or environment at fault, 130 Ctrl-C."""

import errno
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Transformer-based visual clustering over k-NN graphs.",
)

FeaturesArgument = Annotated[
    Path, typer.Argument(help="Features: .npy, .bin (with --dim) or .parquet.", metavar="FEATURES")
]
LabelsArgument = Annotated[Path, typer.Argument(help="Identities: .npy or .meta.", metavar="LABELS")]
DimOption = Annotated[int | None, typer.Option(help="Width of the rows of a .bin file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
BackendOption = Annotated[
    str, typer.Option(help="What serves the model's ops: auto, reference (plain PyTorch), cpu, triton or cuda.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


MemoryOption = Annotated[
    str | None,
    typer.Option(help="With --work: what a process may take beside mapped files, such as 8GiB; no limit by default."),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for sets larger than memory: resumed by the same command, shared by torchrun's processes."
    ),
]


def size_in_bytes(text: str) -> int:
    """Bytes of a size such as 8GiB, 500MB or 4096."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number, unit = re.fullmatch(r"([0-9]*)(.*)", text.strip().upper(), re.DOTALL).groups()  # type: ignore[union-attr]
    if not number or unit.strip() not in units:
        raise ValueError(
            f"memory = {text!r}: expected a whole number of bytes, or of KB, MB, GB, KiB, MiB or GiB, such as 8GiB"
        )
    return int(number) * units[unit.strip()]


def example(command: str) -> str:
    """The last line of a command's help."""
    return f"Example: intraformer-fast {command}"


def show(result: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result on standard output, for machines or for people."""
    typer.echo(json.dumps(result, allow_nan=False) if as_json else text)


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
    preset: Annotated[str, typer.Option(help="paper or small.")] = "small",
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
        float, typer.Option(help="With --work: probability below which later sub-clusters are left out; 0 is exact.")
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


@app.command(epilog=example("bench purity_fmi --output benchmarks"))
def bench(
    benchmarks: Annotated[
        list[str] | None, typer.Argument(help="What to time; everything by default.", metavar="BENCHMARK")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch, on the CPU; its own choice by default.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each case; 25, or 5 with --quick.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the inputs; another in every run by default.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results.csv, benchmarks.md and benchmarks.html, or of the pages and tables of --facts."
        ),
    ] = None,
    facts: Annotated[
        bool, typer.Option("--facts", help="Time nothing: compile the Triton kernels and execute them on the CPU.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="The first case of each, few rounds, no memory.")] = False,
    compare: Annotated[
        str | None,
        typer.Option(help="A commit of this clone: build it, run it too, and flag what is over 5 % slower here."),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Say what there is, and run nothing.")] = False,
    samples: Annotated[
        int | None, typer.Option(help="Of `bench scale`: the largest set, of 10,000 to 2,000,000 by default.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Of `bench systems`: glyphs (default), a folder, or learn-to-cluster.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Of `bench systems --data learn-to-cluster`: its files.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Of `bench systems`: how many runs of each; 3.", min=1)] = None,
    size: Annotated[str | None, typer.Option(help="Of the systems: small (default), published or quick.")] = None,
    classes: Annotated[int | None, typer.Option(help="Of `bench systems`: take so many identities.", min=2)] = None,
    as_json: JsonOption = False,
) -> None:
    """Check ops against float64, then time them beside eager and compiled PyTorch. Exit code 1 if one computes wrongly, or is slower.

    `bench scale` clusters synthetic sets of growing size instead: time, memory, and the exponent of the growth.

    `bench systems [NAME...]` trains and compares clustering systems; what is in the folder of --output is not run again.
    """
    from intraformer_fast.bench.command import listing, run_benchmarks, run_compared
    from intraformer_fast.bench.facts.command import run_facts
    from intraformer_fast.bench.scale.command import run_scale

    if list_only:
        found = listing(benchmarks or [])
        show(found, as_json, "\n".join(f"{name:<24}{of['description']}" for name, of in found.items()))
        return

    def say(line: str) -> None:
        typer.echo(line, err=True)

    report: Any
    if benchmarks and benchmarks[0] == "systems":
        from intraformer_fast.bench.systems.command import run_systems

        if facts or device != "cpu" or any(given is not None for given in (rounds, seed, samples, compare)):
            raise ValueError(
                "bench systems runs on the CPU with the seeds 0, 1, ...: expected it without --facts, --device, --rounds, --seed, "
                "--samples and --compare"
            )
        report = run_systems(
            benchmarks[1:],
            data=data or "glyphs",
            root=root,
            classes=classes,
            size="quick" if quick else size or "small",
            seeds=seeds or 3,
            threads=threads,
            output=output,
            say=say,
        )
    elif any(given is not None for given in (data, root, seeds, size, classes)):
        raise ValueError(
            "--data, --root, --seeds, --size and --classes belong to `bench systems`: expected them with that name"
        )
    elif samples is not None and benchmarks != ["scale"]:
        raise ValueError("--samples belongs to `bench scale`: expected it with that name alone")
    elif compare is not None and (facts or benchmarks == ["scale"]):
        raise ValueError(
            "--compare is for what is timed in turns with eager PyTorch: expected it without --facts and scale"
        )
    elif benchmarks == ["scale"]:
        if facts or device != "cpu" or rounds is not None or seed is not None:
            raise ValueError(
                "bench scale runs once on the CPU: expected it without --facts, --device, --rounds and --seed"
            )
        report = run_scale(most=samples, threads=threads, quick=quick, say=say)
    elif facts:
        if device != "cpu" or threads is not None or rounds is not None:
            raise ValueError("--facts times nothing: expected it without --device, --threads and --rounds")
        report = run_facts(benchmarks or [], seed=seed, quick=quick, say=say)
    else:
        options = {"threads": threads, "rounds": rounds, "seed": seed, "quick": quick}
        if compare is None:
            report = run_benchmarks(benchmarks or [], device, **options, say=say)
        else:
            report = run_compared(compare, benchmarks or [], device, **options, say=say)
    if output:
        report.write(output)
    show(report.to_dict(), as_json, report.text())
    raise typer.Exit(report.exit_code)


@app.command(epilog=example("profile features.npy --output profile --trace"))
def profile(
    features: Annotated[
        Path | None, typer.Argument(help="A feature file; without one --samples are made up.", metavar="FEATURES")
    ] = None,
    knn: Annotated[Path | None, typer.Option(help="A graph from `knn`; searched where it is not given.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="model.safetensors of a training; made up where it is not given.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Of a made-up model: paper or small.")] = "small",
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
