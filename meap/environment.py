"""What a bug report needs: versions, devices and what they run, cores, memory, extras. No secrets, no paths."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from meap import __version__
from meap.errors import MissingPackageError
from meap.extras import require_packages
from meap.show.numbers import size

__all__ = ["describe_environment"]

_PACKAGES = (
    *("torch", "transformers", "tokenizers", "mosaicml", "mosaicml-streaming", "datatrove", "fastokens", "numpy"),
    *("flash-attn", "liger-kernel", "triton"),
)
_REQUIREMENT = re.compile(r"([\w.-]+).*extra == ['\"](\w+)['\"]")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_CPU_QUOTA, _MEMORY_LIMIT = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/memory.max")


def describe_environment() -> Iterator[str]:
    """A line per fact, its name first."""
    facts = [
        ("meap", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("platform", platform.platform()),
        ("cores", _cores()),
        ("memory", _memory()),
        (str(_SHARED_MEMORY), _shared_memory()),
        *_devices(),
        *((name, _version(name) or "not installed") for name in _PACKAGES),
        *_extras(),
    ]
    width = max(len(name) for name, _ in facts)
    yield from (f"{name:<{width}}  {value}" for name, value in facts)


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _first_word(_CPU_QUOTA)
    limit = f", a quota of {int(quota) / int(_CPU_QUOTA.read_text().split()[1]):g}" if quota.isdigit() else ""
    return f"{usable} usable of {os.cpu_count()}{limit}"


def _memory() -> str:
    pages = {name: os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES") if name in os.sysconf_names}
    page = os.sysconf("SC_PAGE_SIZE")
    limit = _first_word(_MEMORY_LIMIT)
    told = [f"{size(pages['SC_PHYS_PAGES'] * page)}"]
    if "SC_AVPHYS_PAGES" in pages:
        told.append(f"{size(pages['SC_AVPHYS_PAGES'] * page)} free")
    if limit.isdigit():
        told.append(f"a limit of {size(int(limit))}")
    return ", ".join(told)


def _shared_memory() -> str:
    if not _SHARED_MEMORY.is_dir():
        return "there is none"
    usage = shutil.disk_usage(_SHARED_MEMORY)
    return f"{size(usage.total)}, {size(usage.free)} free"


def _devices() -> Iterator[tuple[str, str]]:
    """GPUs, and what `auto` makes of them."""
    try:
        require_packages("gpu", "torch", extra="train")
    except MissingPackageError as error:
        yield "gpu", f"not known: {error}"
        return
    import torch
    from torch.version import cuda

    has_gpu = torch.cuda.is_available()
    yield "cuda", f"{cuda or 'not in this build of torch'}{'' if has_gpu else '; torch sees no device'}"
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        yield f"gpu {number}", f"{found.name}, {size(found.total_memory)}, sm_{found.major}{found.minor}"
    try:
        from meap.train.attention import choose_attention, describe_attention

        name = choose_attention("auto", on_gpu=has_gpu, bf16=has_gpu)
        for rows, has_segments in (("packed rows", False), ("fine-tuning", True)):
            told = describe_attention(name, on_gpu=has_gpu, bf16=has_gpu, has_segments=has_segments)
            yield f"attention, {rows}", told
    except MissingPackageError as error:
        yield "attention", str(error)


def _extras() -> Iterator[tuple[str, str]]:
    """Which optional packages are missing, by extra."""
    try:
        requirements = metadata.requires("meap") or []
    except metadata.PackageNotFoundError:
        yield "extras", "not known: meap runs from a folder, and is not installed"
        return
    missing: dict[str, list[str]] = {}
    for name, extra in (found.groups() for found in map(_REQUIREMENT.match, requirements) if found):
        missing.setdefault(extra, [])
        if _version(name) is None:
            missing[extra].append(name)
    for extra, names in missing.items():
        yield f"extra {extra}", f"{', '.join(names)} missing" if names else "complete"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _first_word(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError):
        return ""
