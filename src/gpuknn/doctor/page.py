"""The report as a page: for the terminal, and in Markdown."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpuknn.bench.rate import si
from gpuknn.doctor.examine import Report
from gpuknn.errors import pip_install

Rows = list[tuple[str, ...]]


def page(report: Report, markdown: bool = False) -> str:
    """All of the report, for people."""
    head = [f"# gpuknn doctor: {report.machine.host}, {report.date}\n"] if markdown else []
    show = _as_markdown if markdown else _as_text
    return "\n".join([*head, *(show(title, rows) for title, rows in _sections(report) if rows), verdict(report) + "\n"])


def as_json(report: Report) -> dict[str, Any]:
    """The same for programs."""
    return {"passed": report.passed} | asdict(report)


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write `<host>-<date>.json` and `.md`; the paths."""
    name = f"{report.machine.host}-{report.date[:19].replace(':', '')}"
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(as_json(report), indent=2) + "\n")
    paths[1].write_text(page(report, markdown=True))
    return paths


def verdict(report: Report) -> str:
    """One line."""
    failed = [check.name for check in report.checks if not check.passed]
    if failed:
        return f"NOT WELL: {len(failed)} of {len(report.checks)} checks said no: {', '.join(failed)}"
    return f"all right: {len(report.checks)} checks passed on {report.device}"


def _sections(report: Report) -> list[tuple[str, Rows]]:
    checks: Rows = [("yes" if check.passed else "NO", check.name, check.said) for check in report.checks]
    return [
        ("Machine", _machine(report)),
        ("Packages", [(name, version or "not installed") for name, version in report.machine.packages.items()]),
        ("GPUs", _gpus(report)),
        ("Note", [(note,) for note in report.notes]),
        (f"Checks on {report.device}", checks),
        ("Errors of float16 sums, as a share of what is proven", [(k, f"{v:.4f}") for k, v in report.sums.items()]),
        (f"Rates of {report.device}", [(r.name, si(r.value, r.unit), r.said) for r in report.rates]),
        (
            "Rows on the GPU already: from the queries to the answer, and the share of the bare product's rate",
            [
                (
                    *(f"k = {r.k}", f"{r.rows:,} rows x {r.components}, {r.queries:,} queries", f"{r.seconds:.3g} s"),
                    *(si(r.operations, "FLOP/s"), f"{r.share:.1%}", f"{r.bound_used:.3f} of the proven error used"),
                )
                for r in report.resident
            ],
        ),
    ]


def _machine(report: Report) -> Rows:
    m = report.machine
    levels = f"{m.int8_levels} levels" if m.int8_levels else f"none; install them with: {pip_install('int8')}"
    limit = f", the container may use {m.memory_limit / 2**30:.1f} GiB" if m.memory_limit else ""
    cores = f"{m.cores} cores" + (f", {m.core_limit:g} granted by the container" if m.core_limit else "")
    return [
        ("gpuknn", f"{m.gpuknn}, Python {m.python}"),
        ("host", f"{m.host}, {m.platform}"),
        ("processor", f"{m.processor}, {cores}"),
        ("memory", f"{m.memory / 2**30:.1f} GiB{limit}"),
        ("BLAS", m.blas),
        ("float32 product", si(m.product, "FLOP/s")),
        ("8-bit product", levels),
        ("reading", f"{si(m.disk.read, 'B/s') + ', ' if m.disk.read else ''}{m.disk.folder} ({m.disk.said})"),
        ("device used", report.device),
    ]


def _gpus(report: Report) -> Rows:
    gpus = report.gpus
    if not gpus.found:
        return [("none", "no NVIDIA GPU or driver was found"), *gpus.libraries.items()]
    found = [(f"{i}", f"{gpu.name}, {gpu.memory / 2**30:.1f} GiB") for i, gpu in enumerate(gpus.found)]
    driver = f"{gpus.driver or 'version unknown'} (told by {gpus.told_by})"
    return [*found, ("driver", driver), *gpus.libraries.items()]


def _as_text(title: str, rows: Rows) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([title, *lines, ""])


def _as_markdown(title: str, rows: Rows) -> str:
    head = "| " + " | ".join([""] * len(rows[0])) + " |"
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"## {title}", "", head, "|---" * len(rows[0]) + "|", *lines, ""])
