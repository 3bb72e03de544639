"""A file that is no recipe is never quoted. Oracle: a secret in the file, and in what is said of it."""

import pytest

from neuclip.foundation.errors import ConfigError
from neuclip.recipe import load_recipe

SECRET = "hunter2-TopSecret"
FILES = {
    "shadow": f"root:$6${SECRET}:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n",
    "passwd": f"root:x:0:0:{SECRET}:/root:/bin/bash\n",
    "a private key": f"-----BEGIN PRIVATE KEY-----\n{SECRET}==\n-----END PRIVATE KEY-----\n",
    "an environment": f"AWS_SECRET_ACCESS_KEY={SECRET}\nB=2\n",
    "ini": f"[default]\naws_secret_access_key = {SECRET}\n",
    "ini that is a list": f"[{SECRET}]\n",
    "JSON": f'{{"private_key": "{SECRET}", "type": "service_account"}}',
    "broken JSON": f'{{"private_key": "{SECRET}", "type": ',
    "a name": f"{SECRET}: 1\n",
    "a name twice": f"{SECRET}: 1\n{SECRET}: 2\n",
    "an alias": f"a: *{SECRET}\n",
    "an alias in itself": f"a: &{SECRET} [*{SECRET}]\n",
    "an anchor twice": f"a: &{SECRET} 1\nb: [*{SECRET}, *x{SECRET}]\n",
    "a tag": f"a: !{SECRET} 1\n",
    "a tag's handle": f"a: !{SECRET}!x 1\n",
    "a directive": f"%{SECRET} 1\n--- a\n",
    "an open quote": f'password: "{SECRET}\n',
    "a tab": f"{SECRET}:\n\tx: 1\n",
    "an indentation": f"a: {SECRET}\n  b: {SECRET}\n",
    "two documents": f"--- {SECRET}\n--- {SECRET}\n",
    "not text": f"{SECRET}\x00".encode(),
    "Latin-1": f"password: {SECRET}\xe9".encode("latin-1"),
    "netrc": f"machine example.org login ada password {SECRET}\n",
    "a list": f"- {SECRET}\n- {SECRET}\n",
    "Kubernetes": f"apiVersion: v1\nkind: Secret\ndata: {{{SECRET}: {SECRET}}}\n",
    "Compose": f"services:\n  db:\n    environment: {{PASSWORD: {SECRET}}}\n",
    "one known name among others": f"root: {SECRET}\n{SECRET}: 1\nother: 2\nuser: 3\n",
    "a key for each host": f"example.org: {SECRET}\nexample.com: {SECRET}\n",
}
OVERRIDES = [
    None,
    {"root": "lake"},
    {"a.b": 1},
    {"x.y.z": 1},
    {"password.x": 1},
    {"private_key.x.y": 1},
    {"data.x.y": 1},
    {"services.db.environment.PASSWORD.x": 1},
]


@pytest.mark.parametrize("overrides", OVERRIDES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_recipe_is_not_quoted(tmp_path, name, overrides):
    content = FILES[name]
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as refusal:
        load_recipe(str(path), overrides)
    said = str(refusal.value)
    assert SECRET not in said
    assert refusal.value.__cause__ is None or SECRET not in str(refusal.value.__cause__)
    assert str(path) in said


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("root: lake\nacquire: {table: t.csv}\ntrian: {}\n", ["trian", "Did you mean 'train'?"]),
        ("root: lake\nacquire: {tabel: t.csv}\n", ["acquire.tabel", "Did you mean 'table'?"]),
        ("rooot: lake\nacquire: {table: t.csv}\ntrain: {}\n", ["rooot", "'root'"]),
        (f"root: s3://KEY:{SECRET}@bucket\nacquire: {{}}\n", ["root: found 's3://bucket'"]),
        (f"root: {{x: {SECRET}}}\n", ["root: found a section with fields"]),
        (f"seed: {SECRET * 40}\nroot: a\n", ["seed: found a text of"]),
    ],
)
def test_what_is_wrong_with_a_recipe_is_still_told(tmp_path, content, told):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as refusal:
        load_recipe(str(path))
    for part in told:
        assert part in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_an_override_of_what_is_no_section_quotes_nothing(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"root: {SECRET}\nacquire: {{table: t.csv}}\ntrain: {{}}\n")
    with pytest.raises(ConfigError, match="root is a text of") as refusal:
        load_recipe(str(path), {"root.folder": 1})
    assert SECRET not in str(refusal.value)
