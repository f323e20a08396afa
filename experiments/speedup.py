"""Measures Octet against other inference engines: the speed tables and figures of the README.

    python experiments/speedup.py
    python experiments/speedup.py --networks resnet50 alexnet --engines octet openvino-int8 --threads 1 --batch 1
    python experiments/speedup.py --isa avx512-vnni
    python experiments/speedup.py --resume              # goes on where an earlier call with the same settings ended
    python experiments/speedup.py --only prepare        # compiles, on a busy machine; later: --only measure

Every engine has a process of its own. They take turns, A B A B, a short slice each, so that what disturbs the
machine disturbs all of them; a round's figure is the median of its slice, and a ratio is the median of the rounds'
ratios. Octet, OpenVINO INT8 and onnxruntime INT8 run the same QDQ file of the zoo, PyTorch INT8 and ncnn INT8 quantise
the FP32 file with the same calibration images. Results only compare engines on the same machine.
Where other processes keep the machine busy, --clock cpu --threads 1 counts only the time that the engine had the CPU.

Writes STEM.json after each network, batch size and thread count, and STEM.md, STEM-bars.png and STEM-roofline.png at
the end. `pip install '.[experiments,peers]'` installs the engines; one that is missing is left out, with a remark.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments import zoo
from experiments.arguments import positive
from experiments.comparison import MEASURE, PREPARE, Comparison
from experiments.engines import ENGINES
from experiments.isa_limit import ISA_TARGETS
from experiments.machine import Machine, describe
from experiments.report import Report, read_json, write_json
from experiments.report_figures import draw_bars, draw_roofline
from experiments.report_tables import to_markdown
from experiments.worker import CLOCKS
from pipeline.errors import TargetError
from pipeline.targets import NATIVE, DeployTarget, resolve, supported_by_host

RESULTS = Path(__file__).with_name("results")

AMX_REMARK = (
    "This CPU has AMX. onnxruntime, OpenVINO and PyTorch use it, Octet with the target llvm-amx. --isa avx512-vnni "
    "holds every engine to AVX-512 VNNI."
)
AVX2_REMARK = (
    "Held to AVX2: OpenVINO and PyTorch by ONEDNN_MAX_CPU_ISA and the like (isa_limit.py), Octet by its target. "
    "OpenVINO's AVX2 products saturate; Octet's are exact."
)


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.clock == "cpu" and max(args.threads) > 1:
        parser.error("--clock cpu adds up the threads: it needs --threads 1")
    try:
        target = _target(args.isa, args.target)
        reasons = {name: ENGINES[name].unavailable(args.isa) for name in args.engines}
        engines = [name for name in args.engines if reasons[name] is None]
        machine = describe([name for engine in engines for name in ENGINES[engine].distributions])
        stem = args.output or RESULTS / f"speedup-{machine.slug}{f'-{args.isa}' if args.isa else ''}"
        report = _report(args, machine, target, stem.with_name(f"{stem.name}.json"))
    except (TargetError, ValueError) as error:
        print(f"speedup: {error}", file=sys.stderr)
        return 2
    for name, reason in reasons.items():
        if reason:
            report.remark(f"{name} left out: {reason}")
    if machine.busy:
        report.remark(machine.busy)
    if "amx_int8" in machine.features and args.isa in (None, "amx"):
        report.remark(AMX_REMARK)
    if args.isa == "avx2":
        report.remark(AVX2_REMARK)
    for text in report.remarks:
        print(text, file=sys.stderr)
    if not engines:
        print("speedup: none of the engines asked for is installed", file=sys.stderr)
        return 2

    comparison = Comparison(args, target, engines, report, lambda: write_json(report, _file(stem, ".json")))
    if args.only == PREPARE:
        comparison.prepare()
        return 0
    comparison.run()
    if not report.cells:
        print("speedup: nothing could be measured; the reasons are above", file=sys.stderr)
        return 1
    _publish(report, stem)
    return 0


def _publish(report: Report, stem: Path) -> None:
    text = to_markdown(report)
    _file(stem, ".md").write_text(text + "\n", encoding="utf-8")
    draw_bars(report, _file(stem, "-bars.png"))
    draw_roofline(report, _file(stem, "-roofline.png"))
    print(text)
    print(f"\nwritten: {stem}.json, .md, -bars.png and -roofline.png")


def _target(isa: str | None, name: str) -> DeployTarget:
    """What Octet compiles for: by default what fits ``isa``, or this CPU's best."""
    target = resolve(ISA_TARGETS[isa] if isa and name == NATIVE else name)
    if not supported_by_host(target):
        raise TargetError(f"this CPU cannot run {target.name}: choose another --target or --isa")
    if isa and not set(target.cpu_features) <= set(resolve(ISA_TARGETS[isa]).cpu_features):
        raise TargetError(f"--isa {isa} and the target {target.name} exclude each other: take {ISA_TARGETS[isa]}")
    return target


def _report(args: argparse.Namespace, machine: Machine, target: DeployTarget, path: Path) -> Report:
    """An empty one, or with --resume what is in the file. Raises ValueError where the two do not fit together."""
    settings = {
        "target": target.name,
        "isa": args.isa,
        "rounds": args.rounds,
        "seconds_per_slice": args.seconds,
        "clock": args.clock,
    }
    if not (args.resume and path.exists()):
        return Report(machine, settings)
    earlier = read_json(path)
    if earlier.settings != settings or earlier.machine.slug != machine.slug:
        raise ValueError(
            f"{path} was measured with {earlier.settings} on {earlier.machine.slug}, which is not what is asked for "
            "now: name another file with --output, or leave out --resume to begin anew"
        )
    earlier.machine = machine
    return earlier


def _file(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=zoo.NETWORKS, default=list(zoo.NETWORKS), metavar="NETWORK")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE", help=", ".join(ENGINES)
    )
    parser.add_argument("--threads", nargs="+", type=positive, default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--batch", nargs="+", type=positive, default=[1, 32], metavar="N", help="default: 1 32")
    parser.add_argument(
        "--isa", choices=ISA_TARGETS, help="hold every engine to these instructions (default: no limit)"
    )
    parser.add_argument("--target", default=NATIVE, help="what Octet compiles for (default: the best, within --isa)")
    parser.add_argument("--rounds", type=positive, default=11, metavar="N", help="turns an engine (default: 11)")
    parser.add_argument("--seconds", type=float, default=0.25, metavar="S", help="of a slice (default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine, one thread alone")
    parser.add_argument(
        "--only", choices=(PREPARE, MEASURE), help="compile but do not measure, or measure what was compiled before"
    )
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has, measure the rest")
    parser.add_argument(
        "--output", type=Path, metavar="STEM", help="of the files written (default: experiments/results/speedup-<cpu>)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
