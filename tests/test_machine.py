"""What a process may use is what its container may use; where nothing is known nothing breaks."""

from __future__ import annotations

import time
from pathlib import Path, PurePosixPath

import pytest

from crawlkit.machine import (
    Machine,
    Memory,
    directories,
    parse_bytes,
    parse_groups,
    parse_mounts,
    parse_quota,
    parse_table,
)

MB = 2**20
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
MEMINFO = "MemTotal:       16384000 kB\nMemFree:  1000 kB\nMemAvailable:    8192000 kB\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 16 GB, half of it available, and no control groups."""
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/statm": "9000 1234 100 1 0 500 0\n"})
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def group(path: str, **values: str) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/{path}/{name.replace('_', '.', 1)}": text for name, text in values.items()
    }


def test_without_a_limit_the_machine_itself_is_the_limit(root: Path) -> None:
    machine = Machine(root)
    assert machine.memory() == Memory(16384000 * 1024, 8192000 * 1024)
    assert machine.cores() >= 1
    assert machine.resident() == 1234 * machine._page


def test_where_the_system_tells_nothing_nothing_is_known(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.memory() is None
    assert machine.resident() == 0
    assert machine.cores() >= 1


def test_a_container_is_limited_by_its_own_group(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT})
    write(
        root,
        group(
            ".",
            memory_max=f"{512 * MB}\n",
            memory_high="max\n",
            memory_current=f"{400 * MB}\n",
            memory_stat=f"anon 1000\nfile 5000\ninactive_file {100 * MB}\nactive_file 7\n",
            cpu_max="50000 100000\n",
        ),
    )
    machine = Machine(root)
    assert machine.memory() == Memory(512 * MB, 300 * MB), "reclaimable pages of files do not count"
    assert machine.cores() == 0.5


def test_the_tightest_group_on_the_way_up_counts(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/pod/box\n", "proc/self/mountinfo": V2_MOUNT})
    write(
        root,
        group(
            "pod",
            memory_max=f"{1000 * MB}",
            memory_current=f"{950 * MB}",
            memory_stat="inactive_file 0\n",
            cpu_max="20000 100000",
        )
        | group(
            "pod/box",
            memory_max="max",
            memory_high=f"{800 * MB}",
            memory_current=f"{600 * MB}",
            memory_stat="inactive_file 0\n",
            cpu_max="max 100000",
        ),
    )
    machine = Machine(root)
    assert machine.memory() == Memory(1000 * MB, 950 * MB)
    assert machine.cores() == 0.2
    write(root, group("pod/box", memory_current=f"{790 * MB}"))
    assert machine.memory() == Memory(800 * MB, 790 * MB), "the soft limit slows a process down"


def test_a_limit_that_is_changed_while_the_process_runs_is_seen(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT})
    write(root, group(".", memory_max="max", memory_current=f"{90 * MB}", cpu_max="max 100000"))
    machine = Machine(root)
    assert machine.memory() == Memory(16384000 * 1024, 8192000 * 1024)
    write(root, group(".", memory_max=f"{100 * MB}", cpu_max="10000 100000"))
    assert machine.memory() == Memory(100 * MB, 90 * MB)
    assert machine.cores() == 0.1


def test_version_1_in_a_container_that_sees_its_own_group_only(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": (
                "9:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"
            ),
            "proc/self/mountinfo": (
                "31 2 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
                "32 2 0:32 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"
            ),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 * MB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{250 * MB}\n",
            "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "75000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    machine = Machine(root)
    assert machine.memory() == Memory(256 * MB, 200 * MB)
    assert machine.cores() == 0.75


def test_version_1_without_limits(root: Path) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "9:memory:/user\n3:cpu:/\n",
            "proc/self/mountinfo": (
                "31 2 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                "32 2 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            ),
            "sys/fs/cgroup/memory/user/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    machine = Machine(root)
    assert machine.memory() == Memory(16384000 * 1024, 8192000 * 1024)
    assert machine.cores() >= 1
    assert machine.cores() == int(machine.cores())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "max",
        "garbage",
        "12:memory",
        "::",
        "0::relative",
        " - cgroup2",
        "1 2 - cgroup2",
        "\0",
    ],
)
def test_files_that_say_nothing_sensible_break_nothing(root: Path, text: str) -> None:
    write(
        root,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "proc/meminfo": text,
            "proc/self/statm": "",
        },
    )
    files = ("memory_max", "memory_high", "memory_current", "memory_stat", "cpu_max")
    write(root, group(".", **dict.fromkeys(files, text)))
    machine = Machine(root)
    assert machine.memory() is None
    assert machine.cores() >= 1
    write(root, {"proc/self/cgroup": text, "proc/self/mountinfo": text})
    assert Machine(root).memory() is None


def test_groups_are_found_below_their_mount() -> None:
    mounts = parse_mounts(V2_MOUNT)
    point = PurePosixPath("/sys/fs/cgroup")

    def found(text: str) -> list[PurePosixPath]:
        return directories(parse_groups(text), mounts, "")

    assert found("0::/") == [point]
    assert found("0::/a/b") == [point / "a/b", point / "a", point]
    assert found("0::/../../other") == [point], "a group outside of what can be seen"
    assert found("9:memory:/a") == []
    inside = parse_mounts("30 23 0:26 /a/b /mnt/with\\040blank rw - cgroup2 none rw\n")
    assert directories(parse_groups("0::/a/b/c"), inside, "") == [
        PurePosixPath("/mnt/with blank/c"),
        PurePosixPath("/mnt/with blank"),
    ]
    assert directories(parse_groups("0::/elsewhere"), inside, "") == [
        PurePosixPath("/mnt/with blank")
    ]


def test_numbers_are_read_as_the_kernel_writes_them() -> None:
    assert parse_bytes("1048576\n") == MB
    assert parse_bytes("max\n") is None
    assert parse_bytes("9223372036854771712") is None
    assert parse_quota("150000 100000\n") == 1.5
    assert parse_quota("max 100000\n") is None
    assert parse_quota("-1 100000") is None
    assert parse_quota("100 0") is None
    assert parse_table("MemTotal:  2 kB\nHugePages_Total:  7\nactive_file 9\n") == {
        "MemTotal": 2048,
        "HugePages_Total": 7,
        "active_file": 9,
    }


def test_this_very_machine_can_be_measured_in_no_time() -> None:
    machine = Machine()
    took = []
    for _ in range(20):
        began = time.perf_counter()
        memory, cores = machine.memory(), machine.cores()
        machine.resident()
        took.append(time.perf_counter() - began)
    assert cores > 0
    assert memory is None or memory.used >= 0
    assert min(took) < 0.005
