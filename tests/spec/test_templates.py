"""What is known of templates without rows."""

from __future__ import annotations

import jinja2
import pytest

from catsweep.spec.templates import used_columns


@pytest.mark.parametrize(
    ("template", "columns"),
    [
        ("{{a}} {{b.c[0]}}", ("a", "b")),
        ("{% for x in xs %}{{x.y}}{{loop.index}}{% endfor %}", ("xs",)),
        ("{% set z = a %}{{z}}{{range(3)|list}}", ("a",)),
        ("{{references if references is defined else [a]}}", ("a",)),
        ("{{a if a is string else b}}", ("a", "b")),
    ],
)
def test_a_template_names_its_columns(template: str, columns: tuple[str, ...]) -> None:
    assert used_columns(template) == columns


@pytest.mark.parametrize("template", ["{{a|uper}}", "{{a is strin}}", "{{a", "{% for %}"])
def test_what_jinja_does_not_know_is_found_without_rows(template: str) -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        used_columns(template)
