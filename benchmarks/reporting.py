"""What a benchmark prints and writes: the machine, Markdown tables, and the same as JSON."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "faiss-gpu", "faiss-cpu", "numpy", "pillow", "SQLAlchemy")


def machine() -> dict[str, str]:
    """What figures depend on: processor, cores this process may use, memory, GPU, versions."""
    import torch

    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(num_cores()),
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        **{name: found for name in _LIBRARIES if (found := _version(name))},
    }


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same columns as a table; columns after the first are numbers and go to the right."""
    columns = list(rows[0])
    lines = [_line(columns), "|".join(["", "---", *["---:"] * (len(columns) - 1), ""])]
    return "\n".join([*lines, *(_line(row[column] for column in columns) for row in rows)])


def describe_machine() -> str:
    """The machine in two lines."""
    facts = machine()
    hardware = [facts.pop(name) for name in ("processor", "cores", "memory", "GPU", "system")]
    first = f"{hardware[0]}, {hardware[1]} cores, {hardware[2]}, GPU: {hardware[3]}, {hardware[4]}"
    return f"{first}\n{', '.join(f'{name} {number}' for name, number in facts.items())}"


def write_json(path: Path | None, *, benchmark: str, figures: Any) -> None:
    """Figures and machine as one JSON object; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps({"benchmark": benchmark, "machine": machine(), "figures": figures}, indent=2) + "\n", encoding="utf-8")


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _processor() -> str:
    """The processor's name, and its family and model, which tell more where a hypervisor hides the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    pairs = (line.partition(":") for line in lines)
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{facts.get('model name', 'unknown')} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
