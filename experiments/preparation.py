"""What the engines of the speed comparison make of the networks before anything is measured, and where it lies."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments import zoo
from experiments.engines import ENGINES
from experiments.measure import EngineProcess

FOLDER = Path(__file__).resolve().parents[1] / "build" / "speedup"


@dataclass(frozen=True)
class Artefact:
    path: str
    """What the engine loads: the zoo's file, or what it made of it."""
    seconds: float
    """That it took to make."""
    peak_mib: float
    """The most memory meanwhile."""
    commit: str
    """Of Octet."""

    def report(self) -> dict[str, Any]:
        """What a reader on another machine can use: the file's name without this machine's folders."""
        return {"file": Path(self.path).name, "seconds": self.seconds, "peak_mib": self.peak_mib, "commit": self.commit}


class Preparation:
    """Makes artefacts and finds those that an earlier program made; a list of them lies in their folder."""

    def __init__(self, isa: str | None, target: str, threads: Sequence[int], commit: str) -> None:
        """``isa``: what engines are held to (None: nothing). ``target``: what Octet compiles for."""
        self._isa = isa
        self._target = target
        self._threads = threads
        self._commit = commit
        self._folder = FOLDER / (isa or "any-isa")
        self._list = self._folder / "artefacts.json"

    def make(self, engine: str, network: str, batch: int) -> Artefact:
        """In a process that ends afterwards, so that no compiler stays in the engine's. Raises EngineError."""
        model = zoo.model_path(network, ENGINES[engine].kind)
        with closing(EngineProcess(engine, self._isa)) as process:
            answer = process.prepare(model, self._folder, batch, self._target, self._threads)
        seconds, peak = (round(answer[key], 1) for key in ("seconds", "peak_mib"))
        artefact = Artefact(answer["artefact"], seconds, peak, self._commit)
        self._write({**self._read(), self._key(engine, network, batch): artefact})
        return artefact

    def find(self, engine: str, network: str, batch: int) -> Artefact | None:
        return self._read().get(self._key(engine, network, batch))

    def _key(self, engine: str, network: str, batch: int) -> str:
        return f"{engine} {network}, batch {batch}" + (f", {self._target}" if engine == "octet" else "")

    def _read(self) -> dict[str, Artefact]:
        try:
            data = json.loads(self._list.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {key: Artefact(**entry) for key, entry in data.items() if Path(entry["path"]).exists()}

    def _write(self, artefacts: dict[str, Artefact]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._list.with_name(f".{self._list.name}.{os.getpid()}")
        entries = {key: asdict(artefact) for key, artefact in artefacts.items()}
        partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._list)
