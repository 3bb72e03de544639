"""Oracle: programs that count their own starts."""

import logging

import pytest
from launching.programs import BEGIN, times_begun

from neuclip.foundation.errors import (
    ChildError,
    NumericsError,
    StoppedError,
    TransientStorageError,
)

DIE = "os.kill(os.getpid(), signal.SIGKILL)\n"


def starts(told) -> int:
    return len((told.folder / "starts").read_text())


def test_a_program_that_ends_well_is_started_once(told):
    assert told.launch(times_begun(told.folder) + "print('done')") == 0
    assert starts(told) == 1
    assert "done" in told.lines
    assert "done" in (told.folder / "train.log").read_text()


def test_a_killed_program_is_started_again_and_the_log_says_why(told, caplog):
    with caplog.at_level(logging.WARNING):
        assert told.launch(times_begun(told.folder) + f"if n < 3: {DIE}") == 2
    assert starts(told) == 3
    warnings = [record.getMessage() for record in caplog.records if "restart" in record.message]
    assert [text.split(":")[0] for text in warnings] == ["restart 1 of 3", "restart 2 of 3"]
    assert all("SIGKILL" in text for text in warnings)


@pytest.mark.parametrize("most", [0, 2])
def test_one_that_dies_again_and_again_is_given_up(told, most):
    with pytest.raises(ChildError, match="SIGKILL"):
        told.launch(times_begun(told.folder) + DIE, max_restarts=most)
    assert starts(told) == most + 1


def test_one_that_never_began_is_not_started_again(told):
    code = times_begun(told.folder).removeprefix(BEGIN) + "sys.exit('no such module')"
    with pytest.raises(ChildError, match=r"exit code 1; .*\nno such module"):
        told.launch(code)
    assert starts(told) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [(NumericsError, 1), (StoppedError, 1), (TransientStorageError, 2)],
)
def test_what_a_rank_has_written_down_decides(told, error, expected):
    """A refusal is raised as its own class, at once; what may pass by itself is tried again."""
    code = (
        times_begun(told.folder) + "if n < 2: print('now', flush=True); time.sleep(.5); sys.exit(3)"
    )

    class Rank(list):
        def append(self, line):
            super().append(line)
            if line == "now":
                told.errors.append(error("rank 1 says no"))

    told.lines = Rank()
    if expected == 1:
        with pytest.raises(error, match="rank 1 says no"):
            told.launch(code)
    else:
        assert told.launch(code) == 1
    assert starts(told) == expected


def test_a_refusal_ends_ranks_that_would_wait_for_ever(told):
    class Rank(list):
        def append(self, line):
            super().append(line)
            told.errors.append(NumericsError("the loss is not finite"))

    told.lines = Rank()
    with pytest.raises(NumericsError, match="not finite"):
        told.launch(BEGIN + "import time; print('hangs', flush=True); time.sleep(300)")


@pytest.mark.slow
def test_torchruns_own_restarts_count_and_are_bounded_together(told):
    """Two ranks; one dies at the first two starts."""
    code = times_begun(told.folder).removeprefix(BEGIN)
    code = (
        "import os; rank = int(os.environ['RANK'])\n"
        f"if rank == 0: {BEGIN}\n"
        f"if rank == 1:\n  {code.rstrip().replace('; ', '; ')}\n  time.sleep(1)\n  if n < 3: {DIE}"
    )
    script = told.folder / "ranks.py"
    script.write_text(code)
    program = told.program("")
    told.program = lambda _: type(program)(**{**vars(program), "words": [str(script)]})
    assert told.launch("", processes=2, max_restarts=2) == 2
    assert starts(told) == 3
