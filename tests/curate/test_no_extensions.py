"""A function of an extension is unknown, not fetched. Oracle: DuckDB's message, and that no extension is put up."""

import pytest

from neuclip.curate.conditions import Condition, check_columns
from neuclip.foundation.errors import ConfigError
from neuclip.storage.tables import connect


@pytest.mark.parametrize(
    "call", ["st_point(1, 2) IS NULL", "h3_is_valid_cell(1)", "host('10.0.0.1'::VARCHAR) = 'a'"]
)
def test_a_function_of_an_extension_is_not_fetched(call):
    with pytest.raises(ConfigError, match=r"rule sql: (Catalog|Binder) Error"):
        check_columns([Condition("sql", call)], {"alt": "VARCHAR"}, "rule sql")


def test_tables_are_worked_on_with_what_is_installed(tmp_path):
    with connect(tmp_path) as connection:
        asked = "SELECT current_setting('autoinstall_known_extensions')"
        assert connection.execute(asked).fetchall() == [(False,)]
