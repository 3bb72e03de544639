"""Machines that a command reaches, here this one under two names. Oracle: what they print, and the process table."""

import json
import sys

import pytest
from launching.programs import BEGIN
from servers.s3 import free_port

from neuclip.foundation.errors import ChildError, ConfigError
from neuclip.launching.network import interface_of, own_address
from neuclip.launching.node import main as run_node

B_IS_SHUT = '[ "$0" = b ] && { echo no route to host; exit 255; }; exec "$@"'


def hosts(*names, connect=("env", "MACHINE={host}"), **more):
    endpoint = f"127.0.0.1:{free_port()}"
    return {"names": list(names), "connect": list(connect), "endpoint": endpoint, **more}


def test_one_host_alone_gets_words_and_variables_untouched(told, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a key with 'quotes' and $signs")
    code = BEGIN + (
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['AWS_SECRET_ACCESS_KEY'], "
        "os.environ['MACHINE'], open(f'/proc/{os.getppid()}/cmdline').read()]))"
    )
    wipe = ["env", "-i", "MACHINE={host}"]
    program = told.program(code)
    words = ["$HOME", "a b", "'"]
    told.program = lambda _: type(program)(**{**vars(program), "words": [*program.words, *words]})
    assert told.launch("", hosts=hosts("one", connect=wipe)) == 0
    arguments, key, machine, node = json.loads(told.lines[-1])
    assert (arguments, key, machine) == (words, "a key with 'quotes' and $signs", "one")
    assert node.split("\0")[:-1] == [sys.executable, "-m", "neuclip.launching.node", "--control"]


def test_a_machine_that_cannot_be_reached_is_named_at_once(told):
    section = hosts("a", "b", connect=["sh", "-c", B_IS_SHUT, "{host}"])
    with pytest.raises(ChildError) as caught:
        told.launch(BEGIN, hosts=section)
    message = str(caught.value)
    assert "the ranks of 2 machines did not find each other" in message
    assert "training on b ended with exit code 255" in message
    assert "no route to host" in message


@pytest.mark.slow
def test_two_machines_meet(told):
    script = told.folder / "meet.py"
    script.write_text(
        "import os\n"
        "from neuclip.distributed.collectives import gather_objects\n"
        "from neuclip.distributed.world import World\n"
        "from neuclip.launching.program import say_begun\n"
        "world = World.from_environment()\n"
        "if world.is_main: say_begun()\n"
        "met = gather_objects(os.environ['MACHINE'], world)\n"
        "if world.is_main: print('met', *sorted(met), flush=True)\n"
        "world.close()\n"
    )
    program = told.program("")
    told.program = lambda _: type(program)(**{**vars(program), "words": [str(script)]})
    assert told.launch("", processes=2, hosts=hosts("a", "b")) == 0
    assert "met a a b b" in told.lines


def test_the_own_address_is_that_of_the_way_to_the_meeting_place():
    assert own_address("127.0.0.1:29500") == "127.0.0.1"
    assert own_address("localhost:29500") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


def test_names_that_lead_nowhere_or_home_are_refused():
    with pytest.raises(ConfigError, match=r"finds no way to no-such-host\.invalid:29500"):
        own_address("no-such-host.invalid:29500")
    # Many systems know their own name as a loopback address; 127.1 is a name of one, too.
    with pytest.raises(ConfigError, match=r"the name 127\.1 leads to 127\.0\.0\.1, which no other"):
        own_address("127.1:29500")


def test_a_node_without_a_way_says_so_and_starts_nothing(capsys):
    words = ["--processes=1", "--nodes=2", "--endpoint=no-such-host.invalid:1", "--", "-c", "1/0"]
    assert run_node(words) == 2
    assert "finds no way to no-such-host.invalid:1" in capsys.readouterr().err
