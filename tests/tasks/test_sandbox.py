"""Templates do what Jinja2 does, and end soon whatever they say."""

from __future__ import annotations

import time

import jinja2
import pytest
from jinja2.sandbox import SandboxedEnvironment, SecurityError

from catsweep.tasks.sandbox import MAX_STEPS, BoundedEnvironment, bounded

ROW = {"x": "abc", "words": ["a", "b"], "fields": {"k": 1}, "number": 7, "big": 1234567}
PLAIN = [
    "{{ x }} {{ words | join(', ') }}",
    "{% for w in words %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ w }} {% else %}none{% endfor %}",
    "{{ x ~ '-' ~ x }} {{ ('a' ~ x) if x else ('b' ~ x) }}",
    "{{ 2 * 3 }} {{ x * 3 }} {{ 'a' + 'b' }} {{ 1.5 * 2 }} {{ 7 % 2 }} {{ 2 ** 10 }} {{ 7 // 2 }}",
    "{{ x.replace('a', 'b') | upper | title }} {{ x[:2] }} {{ x | truncate(20) }}",
    "{{ words | map('upper') | list }} {{ words | sort(reverse=true) | first }} {{ words | selectattr('y', 'undefined') | list }}",
    "{% set space = namespace(v='') %}{% for w in words %}{% set space.v = space.v ~ w %}{% endfor %}{{ space.v }}",
    "{{ '%s-%03d' | format(x, number) }} {{ '{}:{:>5}'.format(x, number) }} {{ range(3) | list }} {{ fields.k }}",
    "{% macro twice(t) %}{{ t }}{{ t }}{% endmacro %}{{ twice(x) }}",
    "{{ 1234567 | string }} {{ big }} {{ big | int }} {{ 'Order 12345: %s' | format(x) }} {{ '{:,}'.format(big) }} {{ x | center(9) }}",
]
ENDLESS = [
    "{{ 10 ** 10 ** 8 }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ words * 10 ** 10 }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set s = namespace(v='a') %}{% for i in range(60) %}{% set s.v = s.v ~ s.v %}{% endfor %}",
    "{% set s = namespace(v='a') %}{% for i in range(60) %}{% set s.v = s.v + s.v %}{% endfor %}",
    "{{ x | center(1000000000) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ range(10 ** 9) | list }}",
    "{{ (10 ** 60) * (10 ** 60) }}",
]


@pytest.mark.parametrize("template", PLAIN)
def test_plain_templates_give_what_jinja2_gives(template: str) -> None:
    with bounded():
        assert BoundedEnvironment().from_string(template).render(ROW) == SandboxedEnvironment().from_string(
            template
        ).render(ROW)


@pytest.mark.parametrize("template", ENDLESS)
def test_templates_without_an_end_or_with_a_huge_one_are_refused_at_once(template: str) -> None:
    started = time.process_time()
    with pytest.raises((SecurityError, OverflowError)), bounded():
        BoundedEnvironment().from_string(template).render(ROW)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ words.append(1) }}"]
)
def test_templates_reach_nothing_but_the_row_and_change_nothing(template: str) -> None:
    with pytest.raises(SecurityError), bounded():
        BoundedEnvironment().from_string(template).render(ROW)
    assert ROW["words"] == ["a", "b"]


def test_each_row_has_its_own_budget() -> None:
    loop = BoundedEnvironment().from_string("{% for i in range(60000) %}{% endfor %}ok")
    for _ in range(2):
        with bounded():
            assert loop.render() == "ok"
    with pytest.raises(SecurityError, match=f"more than {MAX_STEPS:,} rounds"), bounded():
        assert loop.render() + loop.render()


def test_a_broken_template_is_a_syntax_error_as_ever() -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        BoundedEnvironment().from_string("{{ x ")
