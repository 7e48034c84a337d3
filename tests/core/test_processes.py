"""Children that are watched, restarted and never left behind: real processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from interplant.core import processes
from interplant.core.processes import Service, supervise

from ..waiting import until

WAIT = "import time; time.sleep(600)"


def python(*code):
    return [sys.executable, "-c", "\n".join(code)]


def is_running(pid):
    """Whether a process still does something: one that has ended and was not collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def supervised(tmp_path):
    """Run a supervisor in a thread; at the end it is stopped."""
    stopping, threads, codes = threading.Event(), [], []

    def begin(*services, **more):
        threads.append(
            threading.Thread(target=lambda: codes.append(supervise(services, stopping, **more)), daemon=True)
        )
        threads[-1].start()
        return codes, threads[-1], stopping

    yield begin
    stopping.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def writes_its_pid(path, then=WAIT):
    """A child that adds its process id to a file."""
    return python(f"import os; open({str(path)!r}, 'a').write(f'{{os.getpid()}}\\n')", then)


def pids(path):
    return [int(line) for line in path.read_text().split()] if path.exists() else []


# --- one child -----------------------------------------------------------------------------------------


def test_a_child_does_not_get_the_terminals_ctrl_c():
    child = processes.start(python(WAIT))
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    processes.stop(child)
    assert child.returncode == -signal.SIGTERM


def test_a_childs_errors_go_to_its_log(tmp_path):
    log = tmp_path / "child.log"
    log.write_text("before\n")
    assert processes.start(python("import sys; sys.stderr.write('here')"), log).wait(20) == 0
    assert log.read_text() == "before\nhere"


def test_a_child_that_will_not_end_is_made_to():
    child = processes.start(
        python("import signal", "signal.signal(15, signal.SIG_IGN)", "print(flush=True)", WAIT),
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    begun = time.monotonic()
    processes.stop(child, seconds=0.3)
    assert child.returncode == -signal.SIGKILL
    assert time.monotonic() - begun < 10
    child.stdout.close()


def test_stopping_a_child_that_has_ended_is_no_matter():
    child = processes.start(python("raise SystemExit(5)"))
    child.wait(20)
    processes.stop(child)
    assert child.returncode == 5


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_end_with_their_parent_however_that_ends(tmp_path, end):
    code = "from interplant.core import processes; processes.follow_parent()"
    pid_file = str(tmp_path / "child")
    child = python(code, f"open({pid_file!r}, 'w').write(str(__import__('os').getpid()))", WAIT)
    parent = subprocess.Popen(
        python(
            "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)",
            "from interplant.core import processes",
            f"processes.start({child!r})",
            WAIT,
        )
    )
    until(lambda: pids(tmp_path / "child"))
    (pid,) = pids(tmp_path / "child")
    assert is_running(pid)
    parent.send_signal(end)
    parent.wait(20)
    until(lambda: not is_running(pid))


def test_a_child_whose_parent_is_gone_already_does_not_begin():
    code = "from interplant.core import processes; processes.follow_parent(); print('began')"
    gone = subprocess.run(
        python(code), env=os.environ | {"INTERPLANT_PARENT": "1"}, capture_output=True, text=True, check=False
    )
    assert gone.returncode == 1
    assert gone.stdout == ""
    assert "the process that started this one is gone" in gone.stderr


def test_a_process_started_by_hand_begins():
    environment = {name: value for name, value in os.environ.items() if name != "INTERPLANT_PARENT"}
    code = "from interplant.core import processes; processes.follow_parent(); print('began')"
    done = subprocess.run(python(code), env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "began\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signals_set_the_event(number):
    code = [
        "import threading; from interplant.core import processes",
        "stopping = threading.Event(); processes.on_stop_signals(stopping)",
        "print(flush=True); assert stopping.wait(20); raise SystemExit(7)",
    ]
    child = subprocess.Popen(python(*code), stdout=subprocess.PIPE)
    child.stdout.readline()
    child.send_signal(number)
    assert child.wait(20) == 7
    child.stdout.close()


def test_is_alive():
    child = processes.start(python(WAIT))
    assert processes.is_alive(child.pid)
    processes.stop(child)
    assert not processes.is_alive(child.pid)
    assert processes.is_alive(1)  # somebody else's


def test_an_installed_module_is_run_with_this_interpreter():
    words = processes.python_module("json.tool", "--help")
    assert words[0] == sys.executable
    assert b"usage" in subprocess.run(words, capture_output=True, check=True).stdout


# --- supervising ---------------------------------------------------------------------------------------


def test_what_dies_is_started_again(tmp_path, supervised):
    path = tmp_path / "pids"
    service = Service("child", writes_its_pid(path))
    supervised(service, patience=0.05)
    for number in range(1, 4):
        until(lambda number=number: len(pids(path)) == number)
        os.kill(pids(path)[-1], signal.SIGKILL)
    until(lambda: len(pids(path)) == 4)
    assert len(set(pids(path))) == 4


def test_the_pause_grows_with_each_death(tmp_path, supervised, caplog):
    path = tmp_path / "pids"
    service = Service("gRPC server", writes_its_pid(path, "raise SystemExit(1)"))
    supervised(service, patience=0.05)
    until(lambda: len(service.deaths) >= 5)
    said = [record.getMessage() for record in caplog.records if "gRPC server" in record.getMessage()]
    assert said[0] == "gRPC server ended (exit code 1); starting it again in 0.1 s"
    gaps = [later - sooner for sooner, later in zip(service.deaths, service.deaths[1:], strict=False)]
    for number, gap in enumerate(gaps[:4]):
        assert gap >= 0.05 * 2**number


def test_the_pause_has_an_end_and_old_deaths_are_forgiven(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])

    class Dead:
        def poll(self):
            return -signal.SIGKILL

    service = Service("child", [])
    for _ in range(9):
        service.child = Dead()
        service.resume_at = float("inf")
        processes._tend(service, 0.5)
    assert service.resume_at == now[0] + 30
    now[0] += 61
    service.child = Dead()
    processes._tend(service, 0.5)
    assert service.resume_at == now[0] + 0.5
    assert "ended (signal SIGKILL); starting it again in 0.5 s" in caplog.text


@pytest.mark.parametrize("code", [2, processes.HOPELESS])
def test_what_starting_again_cannot_mend_ends_everything(tmp_path, supervised, code):
    path = tmp_path / "pids"
    good = Service("good", writes_its_pid(path))
    said = f"import sys; print('the port is in use'); sys.exit({code})"
    bad = Service("bad", python("import time; time.sleep(0.5)", said))
    codes, thread, _ = supervised(good, bad)
    thread.join(20)
    assert codes == [code]
    assert bad.reason == "the port is in use"
    assert good.reason == ""
    assert not any(is_running(pid) for pid in pids(path))


def test_what_is_hopeless_for_one_alone_ends_no_other(tmp_path, supervised, caplog):
    path = tmp_path / "pids"
    away = Service("away", writes_its_pid(path, "print('revoked'); raise SystemExit(3)"), alone=0.2)
    other = Service("other", python(WAIT))
    codes, _, _ = supervised(away, other)
    until(lambda: len(pids(path)) == 3)
    assert "away: revoked; trying again in 0 s" in caplog.text
    assert other.child.poll() is None
    assert codes == []


def test_a_file_that_is_spoilt_later_ends_nothing_and_is_waited_for(tmp_path, supervised, caplog):
    path, good = tmp_path / "pids", tmp_path / "good"
    good.touch()
    wrong = f"import os, sys; os.path.exists({str(good)!r}) or sys.exit(print('plant.yaml: no') or 2)"
    service = Service("child", python(wrong, f"open({str(path)!r}, 'a').write(f'{{os.getpid()}}\\n')", WAIT))
    other = Service("other", python(WAIT))
    codes, _, _ = supervised(service, other, patience=0.05)
    until(lambda: pids(path))
    good.unlink()
    os.kill(pids(path)[0], signal.SIGKILL)
    until(lambda: "child ended (plant.yaml: no); starting it again" in caplog.text)
    assert other.child.poll() is None
    good.touch()
    until(lambda: len(pids(path)) == 2)
    assert codes == []


def test_a_stop_ends_every_child(tmp_path, supervised):
    services = [Service(str(number), writes_its_pid(tmp_path / str(number))) for number in range(3)]
    codes, thread, stopping = supervised(*services)
    until(lambda: all(pids(tmp_path / service.name) for service in services))
    begun = time.monotonic()
    stopping.set()
    thread.join(20)
    assert codes == [0]
    assert time.monotonic() - begun < 5
    assert not any(is_running(pid) for service in services for pid in pids(tmp_path / service.name))


def test_a_child_that_cannot_be_started_leaves_no_other_behind(tmp_path):
    path = tmp_path / "pids"
    good = Service("good", writes_its_pid(path))
    with pytest.raises(FileNotFoundError):
        supervise([good, Service("bad", [str(tmp_path / "missing")])], threading.Event())
    assert good.child.poll() is not None


def test_the_supervisors_own_chores_are_done(supervised):
    done = []
    supervised(Service("child", python(WAIT)), tick=lambda: done.append(time.monotonic()))
    until(lambda: len(done) >= 2)
    assert done[1] - done[0] < 5


def test_an_unknown_signal_has_a_name_too():
    assert processes._how(3) == "exit code 3"
    assert processes._how(-15) == "signal SIGTERM"
    assert processes._how(-40) == "signal 40"


INTERRUPTED = """
import signal
from interplant.core import processes
noted = []
try:
    with processes.uninterrupted():
        signal.raise_signal(signal.SIGINT)
        noted.append("started")
except KeyboardInterrupt:
    print(noted)
"""


def test_ctrl_c_waits_until_a_child_is_noted() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=True)
    assert done.stdout == "['started']\n"
