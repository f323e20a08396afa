"""What the schedule search buys: the best so far against trials, for guided search, random search and the default.

    python experiments/search.py                                    seven layers, one of each network
    python experiments/search.py --target llvm-avx2 --layers 3 --trials 500

Takes the most expensive layers of each network that the networks before it have not given yet, and lets MetaSchedule's
search with the XGBoost cost model and a random search go through its schedules, with several seeds each. A schedule is
measured once, whichever search asks for it first: the curves differ by the order in which the searches ask, not by the
noise of the clock. That noise is in the curves all the same, because the best of many single measurements is a lucky
one: at the end the best three of a layer are compared with the default in many alternating rounds, and what they gain
there is the result, for each layer and for all of them together, calls counted. The cost model goes from layer to
layer, as it does in a search of a network.

Writes search-TARGET.json and .png into experiments/results. Measurements are kept in build/search; an interrupted run
goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import machine as machines
from experiments.arguments import chosen, positive
from experiments.zoo import NETWORKS, model_path
from pipeline import targets
from pipeline.compiler import lower_to_operators
from pipeline.targets import DeployTarget
from pipeline.tuning.measure import Measurer
from pipeline.tuning.measurements import MeasurementLog
from pipeline.tuning.search import CostModel, GuidedSearch, RandomSearch, Search
from pipeline.tuning.task import Task, merged, tasks_of
from pipeline.tuning.tuner import BATCH, FINALISTS
from pipeline.tuning.worker import Worker

RESULTS, LOGS = ROOT / "experiments" / "results", ROOT / "build" / "search"
PACKAGES = ("apache-tvm", "xgboost-cpu")
GUIDED, RANDOM = "guided", "random"
PANELS = 2
"""Of a network, in the figure; the JSON file has all."""
COLOURS = {GUIDED: "#c1272d", RANDOM: "#1f5fa8"}


@dataclass(frozen=True)
class Curve:
    """One search of one task: the speed of the best so far after each trial, relative to the default."""

    task: str
    network: str
    search: str
    seed: int
    best: tuple[float, ...]


def expensive_tasks(
    networks: Sequence[str], target: DeployTarget, layers: int
) -> tuple[list[tuple[str, Task]], list[Task]]:
    """The layers with the most products of each network, calls counted, that none before it has given; and the tasks
    of all networks together.

    The former have the calls of all networks, too.
    """
    found: dict[str, str] = {}
    tasks: list[Task] = []
    for network in tqdm(networks, desc="networks", leave=False):
        own = tasks_of(lower_to_operators(model_path(network, "qdq")), target)
        new = [task.key for task in sorted(own, key=lambda t: -t.weight * t.problem.macs) if task.key not in found]
        found |= dict.fromkeys(new[:layers], network)
        tasks = merged([*tasks, *own])
    by_key = {task.key: task for task in tasks}
    return [(network, by_key[key]) for key, network in found.items()], tasks


def follow(search: Search, task: Task, measurer: Measurer, trials: int, tick: Callable[[int], object]) -> list[float]:
    """Run a search for ``trials`` measurements or to its end: the speed of the best after each over the default's."""
    seconds: list[float] = []
    while len(seconds) < trials and (proposed := search.propose(min(BATCH, trials - len(seconds)))):
        measured = measurer.measure(task, proposed)
        search.observe(measured)
        seconds += [measured[configuration] or float("inf") for configuration in proposed]
        tick(len(proposed))
    default = measurer.known(task)[measurer.default(task)]
    assert default is not None
    return [round(default / best, 4) for best in np.minimum.accumulate(seconds).tolist()]


def run(
    tasks: Sequence[tuple[str, Task]], target: DeployTarget, measurer: Measurer, trials: int, seeds: int
) -> list[Curve]:
    """All curves."""
    curves = []
    with tqdm(total=2 * seeds * len(tasks) * trials, unit="trial") as bar:
        for seed in range(seeds):
            model = CostModel(target, seed)
            for network, task in tasks:
                bar.set_description_str(f"{network}, seed {seed}")
                searches: dict[str, Search] = {
                    RANDOM: RandomSearch(task, target, seed), GUIDED: GuidedSearch(task, target, seed, model),
                }  # fmt: skip
                for name, search in searches.items():
                    best = follow(search, task, measurer, trials, bar.update)
                    curves.append(Curve(task.key, network, name, seed, tuple(best)))
    return curves


def confirm(tasks: Sequence[tuple[str, Task]], measurer: Measurer) -> dict[str, float]:
    """The speed over the default, by task, of the fastest of the best few when they are compared again; 1 at least."""
    confirmed = {}
    for _, task in tqdm(tasks, desc="comparing again", leave=False):
        seconds = {c: s for c, s in measurer.known(task).items() if s is not None and c != measurer.default(task)}
        best = sorted(seconds, key=lambda c: seconds[c])[:FINALISTS]
        ratios = measurer.contest(task, best) if best else {}
        confirmed[task.key] = round(max([1.0, *(float(np.median(own)) for own, *_ in ratios.values())]), 4)
    return confirmed


def overall(
    tasks: Sequence[tuple[str, Task]], everything: Sequence[Task], measurer: Measurer, confirmed: Mapping[str, float]
) -> dict[str, float]:
    """Of the layers together, calls counted: their share of all networks' products, and the speed over the default."""
    products = sum(task.weight * task.problem.macs for _, task in tasks)
    default = best = 0.0
    for _, task in tasks:
        seconds = measurer.known(task)[measurer.default(task)]
        assert seconds is not None
        default += task.weight * seconds
        best += task.weight * seconds / confirmed[task.key]
    share = products / sum(task.weight * task.problem.macs for task in everything)
    return {"layers": len(tasks), "share_of_products": round(share, 3), "speed": round(default / best, 4)}


def table(curves: Sequence[Curve], confirmed: Mapping[str, float]) -> str:
    """Per task: the speed over the default after some trials, the mean of the seeds, and what was confirmed."""
    steps = (8, 16, 32, 64, 128)
    head = f"{'network':<14} {'search':<8}" + "".join(f"{step:>8}" for step in steps) + f"{'end':>8}  trials  confirmed"
    lines = [head]
    for task in dict.fromkeys(curve.task for curve in curves):
        for name in (GUIDED, RANDOM):
            own = [curve for curve in curves if (curve.task, curve.search) == (task, name)]
            cells = [np.mean([c.best[min(step, len(c.best)) - 1] for c in own]) for step in steps]
            end = float(np.mean([c.best[-1] for c in own]))
            lines.append(
                f"{own[0].network:<14} {name:<8}"
                + "".join(f"{cell:>8.3f}" for cell in cells)
                + f"{end:>8.3f}{len(own[0].best):>8}{confirmed[task]:>11.3f}"
            )
    return "\n".join(lines)


def shape_of(task: str) -> str:
    """The main sizes out of a task's key, such as ``ic64ih56iw56oc192 kh3kw3``."""
    found = re.search(r"(ic\d+ih\d+iw\d+oc\d+)oh\d+ow\d+(kh\d+kw\d+)", task)
    return f"{found[1]} {found[2]}" if found else task


def draw(curves: Sequence[Curve], confirmed: Mapping[str, float], title: str, path: Path) -> None:
    """A panel for each of the first tasks of each network, which are the most expensive ones.

    The mean of the seeds, their range shaded, the default, and what was confirmed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    by_network: dict[str, dict[str, None]] = {}
    for curve in curves:
        by_network.setdefault(curve.network, {})[curve.task] = None
    tasks = [task for own in by_network.values() for task in list(own)[:PANELS]]
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for axis, task in zip(axes.flat, tasks, strict=False):
        for name, colour in COLOURS.items():
            own = [curve for curve in curves if (curve.task, curve.search) == (task, name)]
            length = min(len(curve.best) for curve in own)
            best = np.array([curve.best[:length] for curve in own])
            x = np.arange(1, length + 1)
            axis.plot(x, best.mean(axis=0), color=colour, label=f"{name} search")
            axis.fill_between(x, best.min(axis=0), best.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axis.axhline(1, color="#777777", linestyle="--", linewidth=1, label="default schedule")
        axis.axhline(confirmed[task], color="#2e7d32", linestyle=":", linewidth=1.5, label="best, compared again")
        axis.set_title(f"{own[0].network}\n{shape_of(task)}", fontsize=8)
        axis.set_xlabel("trials", fontsize=8)
        axis.set_ylabel("speed over default", fontsize=8)
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=7, frameon=False)
    fig.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=120)
    plt.close(fig)


def write(
    curves: Sequence[Curve],
    confirmed: Mapping[str, float],
    together: Mapping[str, float],
    settings: dict[str, Any],
    folder: Path,
) -> None:
    """The JSON file and the figure."""
    machine = machines.describe(PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"search-{settings['target']}"
    result = {
        "settings": settings, "machine": machine.to_json(), "together": dict(together), "confirmed": dict(confirmed),
        "curves": [asdict(curve) for curve in curves],
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    partial = folder / f".{name}.json"
    partial.write_text(f"{text}\n", encoding="utf-8")
    partial.replace(folder / f"{name}.json")
    title = (
        f"Best schedule so far, {settings['target']}, {settings['threads']} thread(s), {machine.cpu}, {machine.date}"
    )
    draw(curves, confirmed, f"{title}\n{machine.busy or ''}", folder / f"{name}.png")


def main(argv: list[str] | None = None, runner: Worker | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--target", default=targets.NATIVE, metavar="NAME", help="hardware target (default: native)")
    parser.add_argument("--layers", type=positive, default=1, metavar="N", help="of each network (default: 1)")
    parser.add_argument("--trials", type=positive, default=64, metavar="N", help="a task and search (default: 64)")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="runs of each search (default: 3)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of a call (default: 1)")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="default: experiments/results")
    options = parser.parse_args(argv)
    target = targets.resolve(options.target)
    names = chosen(parser, options.networks, NETWORKS)
    tasks, everything = expensive_tasks(names, target, options.layers)
    log = MeasurementLog(LOGS / f"{target.name}.jsonl", options.threads)
    with contextlib.closing(Measurer(target, options.threads, log, tqdm.write, runner)) as measurer:
        curves = run(tasks, target, measurer, options.trials, options.seeds)
        confirmed = confirm(tasks, measurer)
        together = overall(tasks, everything, measurer, confirmed)
    settings = {
        "target": target.name, "threads": options.threads, "trials": options.trials, "seeds": options.seeds,
    }  # fmt: skip
    write(curves, confirmed, together, settings, options.output)
    print(table(curves, confirmed))
    print(
        f"{together['layers']} layers with {together['share_of_products']:.0%} of all products, calls counted: "
        f"the best schedules are {together['speed']:.3f} times as fast as the defaults"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
