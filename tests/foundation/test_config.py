"""Oracle: the fields by hand."""

from pydantic import Field

from neuclip.foundation.config import Section, unkeyed


class Inner(Section):
    size: int = 1
    workers: int = unkeyed(2)


class Outer(Section):
    one: Inner = Inner()
    several: list[Inner] = Field(default_factory=list)
    names: list[str] = Field(default_factory=list)
    threads: int = unkeyed(4)


def test_fields_that_cannot_change_an_output_are_left_out_at_every_depth():
    config = Outer(several=[Inner(workers=7), Inner(size=3)], names=["a"])
    assert config.keyed() == {
        "one": {"size": 1},
        "several": [{"size": 1}, {"size": 3}],
        "names": ["a"],
    }
