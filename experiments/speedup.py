"""Measures Octet against other inference engines: the speed table and figure of the README.

    python experiments/speedup.py
    python experiments/speedup.py --networks resnet50 alexnet --engines octet onnxruntime-int8 --threads 1
    python experiments/speedup.py --batch 32 --rounds 5 --no-amx

Every engine has a process of its own. They take turns, A B A B, a short slice each, so that what disturbs the
machine disturbs all of them; a round's figure is the median of its slice, and a ratio is the median of the rounds'
ratios. The INT8 engines all run the same QDQ file of the zoo. Results only compare engines on the same machine.
Where other processes keep the machine busy, --clock cpu --threads 1 counts only the time that the engine had the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import zoo
from experiments.arguments import positive
from experiments.engines import ENGINES
from experiments.machine import describe
from experiments.macs import count_macs
from experiments.measure import EngineError, EngineProcess, alternate
from experiments.peak import peak_gmacs
from experiments.report import Report, Row, draw, to_markdown, write_json
from experiments.worker import CLOCKS
from pipeline.errors import TargetError
from pipeline.runtime.cpu import TILES
from pipeline.targets import NATIVE, DeployTarget, resolve

RESULTS = Path(__file__).with_name("results")
LIBRARIES = ROOT / "build" / "speedup"

AMX_REMARK = (
    "This CPU has AMX. onnxruntime and OpenVINO use it, Octet with the target llvm-amx only. --no-amx holds every "
    "engine to AVX512-VNNI."
)
WITHOUT_AMX = "llvm-avx512-vnni"


class Comparison:
    """Runs what was asked for and gathers rows and remarks; an engine that fails on a network is left out there."""

    def __init__(self, args: argparse.Namespace, target: DeployTarget, engines: Sequence[str]) -> None:
        self._args = args
        self._target = target
        self._engines = engines
        self.peaks: list[float] = []
        self.rows: list[Row] = []
        self.preparation: dict[str, dict[str, float]] = {}
        self.remarks: list[str] = []

    def run(self) -> None:
        for batch in self._args.batch:
            for network in self._args.networks:
                # Again and again, because the clock frequency changes with what the machine does.
                self.peaks += filter(None, [peak_gmacs(self._target)])
                artefacts = self._prepare(network, batch)
                for threads in self._args.threads:
                    self._measure(network, batch, threads, artefacts)

    def _prepare(self, network: str, batch: int) -> dict[str, str]:
        """What each engine loads. Made in a process that ends afterwards, so that no compiler stays in the engine's."""
        artefacts = {}
        for engine in self._engines:
            model = zoo.model_path(network, ENGINES[engine].kind)
            with closing(EngineProcess(engine)) as process:
                try:
                    answer = process.prepare(model, LIBRARIES, batch, self._target.name)
                except EngineError as error:
                    self._remark(f"{network}, batch {batch}: {error}")
                    continue
            artefacts[engine] = answer["artefact"]
            if Path(answer["artefact"]) != model:
                name = f"{engine} {network}, batch {batch}"
                self.preparation[name] = {key: round(answer[key], 1) for key in ("seconds", "peak_mib")}
                _progress(f"{name}: compiled in {answer['seconds']:.1f} s")
        return artefacts

    def _measure(self, network: str, batch: int, threads: int, artefacts: dict[str, str]) -> None:
        with ExitStack() as stack:
            loaded = []
            for engine, artefact in artefacts.items():
                process = stack.enter_context(closing(EngineProcess(engine, self._args.no_amx)))
                try:
                    process.load(artefact, threads, (batch, 3, 224, 224))
                    loaded.append(process)
                except EngineError as error:
                    self._remark(f"{network}, batch {batch}, {threads} threads: {error}")
            if not loaded:
                return
            timings = alternate(loaded, self._args.rounds, self._args.seconds, self._args.clock)
        macs = count_macs(onnx.load(zoo.model_path(network)), batch)
        self.rows.append(Row(network, threads, batch, macs, timings))
        medians = ", ".join(f"{name} {timing.median:.2f}" for name, timing in timings.items())
        _progress(f"{network}, threads {threads}, batch {batch}, ms: {medians}")

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        _progress(text)


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.clock == "cpu" and max(args.threads) > 1:
        parser.error("--clock cpu adds up the threads: it needs --threads 1")
    try:
        target = resolve(WITHOUT_AMX if args.no_amx and args.target == NATIVE else args.target)
    except TargetError as error:
        print(f"speedup: {error}", file=sys.stderr)
        return 2
    if args.no_amx and TILES in target.cpu_features:
        parser.error(f"--no-amx and the target {target.name} exclude each other: take --target {WITHOUT_AMX}")
    reasons = {name: ENGINES[name].unavailable() for name in args.engines}
    engines = [name for name in args.engines if reasons[name] is None]
    remarks = [f"{name} left out: {reason}" for name, reason in reasons.items() if reason]
    machine = describe([*(ENGINES[name].distribution for name in engines), "apache-tvm"])
    if machine.busy:
        remarks.append(machine.busy)
    if "amx_int8" in machine.features and not args.no_amx:
        remarks.append(AMX_REMARK)
    for text in remarks:
        _progress(text)
    if not engines:
        print("speedup: none of the engines asked for is installed", file=sys.stderr)
        return 2

    comparison = Comparison(args, target, engines)
    comparison.run()
    if not comparison.rows:
        print("speedup: nothing could be measured; the reasons are above", file=sys.stderr)
        return 1

    report = Report(
        machine=machine,
        settings={
            "target": target.name,
            "rounds": args.rounds,
            "seconds_per_slice": args.seconds,
            "no_amx": args.no_amx,
            "clock": args.clock,
        },
        peak_gmacs=statistics.median(comparison.peaks) if comparison.peaks else None,
        reference="octet" if "octet" in engines else engines[0],
        rows=comparison.rows,
        preparation=comparison.preparation,
        remarks=[*remarks, *comparison.remarks],
    )
    json_path = args.json or RESULTS / f"speedup-{machine.slug}.json"
    figure_path = args.figure or RESULTS / f"speedup-{machine.slug}.png"
    write_json(report, json_path)
    draw(report, figure_path)
    print(to_markdown(report))
    print(f"\nwritten: {json_path} and {figure_path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=zoo.NETWORKS, default=list(zoo.NETWORKS), metavar="NETWORK")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--threads", nargs="+", type=positive, default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--batch", nargs="+", type=positive, default=[1], metavar="N", help="default: 1")
    parser.add_argument("--target", default="native", help="what Octet compiles for (default: this machine's best)")
    parser.add_argument("--rounds", type=positive, default=11, metavar="N", help="turns an engine (default: 11)")
    parser.add_argument("--seconds", type=float, default=0.25, metavar="S", help="of a slice (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine, one thread alone")
    parser.add_argument("--no-amx", action="store_true", help="hold every engine to what the CPU has besides AMX")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: experiments/results/speedup-<cpu>.json")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="default: the same name, .png")
    return parser


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
