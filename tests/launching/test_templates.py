"""Templates with hostile values, and hostile templates. Oracles: bash, shlex and a YAML parser on what was rendered."""

import shlex
import subprocess

import pytest
import yaml
from pydantic import ValidationError

from neuclip.foundation.errors import ConfigError
from neuclip.launching.config import LaunchConfig
from neuclip.launching.kubernetes import manifest
from neuclip.launching.slurm import batch_script
from neuclip.launching.templates import render

HOSTILE = [
    "a b",
    "a'b",
    'a"b',
    "a`id`b",
    "$(touch evil)",
    "$HOME",
    "${IFS}",
    "a;touch evil",
    "a&&touch evil",
    "a|sh",
    "a>evil",
    "a#b",
    "a\\",
    "{{ 7 * 7 }}",
    "{% for x in y %}",
    "{# comment",
    "a: b",
    "- a",
    "*a",
    "&a",
    "!a",
    "%a",
    "a\u2028b",
    "caf\u00e9 \U0001f600",
]
BROKEN_LINES = ["a\nb", "a\n#SBATCH --uid=0", "a\r\nb", "a\x00b", "a\x1bb"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_batch_script_keeps_its_lines_and_words(told, tmp_path, value):
    def script(python, log_path):
        config = LaunchConfig.model_validate({"slurm": {"python": python}})
        program = told.program(f"print({value!r})")
        return batch_script(config, program, name="n", log_path=log_path, max_restarts=0)

    text, plain = script(value, tmp_path / value), script("python", tmp_path / "log")
    assert len(text.split("\n")) == len(plain.split("\n"))
    [output] = [line for line in text.split("\n") if "--output=" in line]
    assert shlex.split(output)[-1] == f"--output={tmp_path / value}"
    last = text.rstrip("\n").split("\n")[-1].removeprefix("exec srun --kill-on-bad-exit=1 ")
    printed = subprocess.run(
        ["bash", "-c", f"first=a; printf '%s\\0' {last}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.split("\0")
    assert printed[0] == value
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("value", [*sorted(set(HOSTILE) - {"*a", "%a"}), *BROKEN_LINES])
def test_an_option_of_a_batch_script_is_one_word(value):
    for options in ({"partition": value}, {value: "gpu"}):
        with pytest.raises(ValidationError):
            LaunchConfig.model_validate({"slurm": {"options": options}})


@pytest.mark.parametrize("value", BROKEN_LINES)
def test_a_log_folder_is_one_line(value):
    with pytest.raises(ValidationError):
        LaunchConfig.model_validate({"slurm": {"log_folder": value}})


@pytest.mark.parametrize("value", [*HOSTILE, *BROKEN_LINES])
def test_a_manifest_keeps_its_structure(told, value):
    section = {
        "image": value,
        "namespace": value,
        "secret": value,
        "resources": {value: value},
        "python": value,
    }
    config = LaunchConfig.model_validate({"kubernetes": section})
    text = manifest(config, told.program("pass"), name="n", max_restarts=0)
    service, job = yaml.safe_load_all(text)
    assert service["metadata"] == job["metadata"] == {"name": "n", "namespace": value}
    assert set(job["spec"]) == {
        *("completionMode", "completions", "parallelism", "backoffLimit", "template")
    }
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == value
    assert container["envFrom"] == [{"secretRef": {"name": value}}]
    assert container["resources"] == {"limits": {value: value}}
    assert container["command"][0] == value.replace("$(", "$$(")  # as Kubernetes reads it


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ options.__class__ }}",
        "{{ options['__class__'] }}",
        "{{ options | attr('__class__') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__.os.popen('id').read() }}",
        "{{ options.update({'a': 1}) }}",
        "{{ options.pop('a') }}",
        "{% for x in range(1000000000) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{{ open('/etc/passwd') }}",
        "{{ '{0.__class__}'.format(options) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{{ 1 + 'a' }}",
        "{{ 'a' | int('x') + [] }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(tmp_path, template):
    path = tmp_path / "template"
    path.write_text(template)
    options = {"a": "b"}
    with pytest.raises(ConfigError, match="does not fit"):
        render("train.launch.slurm.template", str(path), options=options)
    assert options == {"a": "b"}
