"""Markdown becomes HTML that needs neither a script nor a network."""

import pytest

from tlcourse.quiz.render import as_html, as_phrase, first_and_rest


def test_formulas_become_mathml_and_nothing_is_fetched():
    made = as_html("With $\\frac{a}{b_1}$:\n\n$$\\sum_i x_i \\le \\ln C$$")
    assert made.count("<math") == 2 and "<mfrac>" in made and 'display="block"' in made
    assert "<script" not in made and "src=" not in made and "\\frac" not in made


def test_html_and_scripts_in_a_text_are_shown_and_not_run():
    made = as_html("<script>alert(1)</script> and [x](javascript:alert(1)) and `<b>`")
    assert "<script" not in made and "<a" not in made and "<code>&lt;b&gt;</code>" in made
    assert "<img" not in as_phrase("<img src=x onerror=alert(1)>")


@pytest.mark.parametrize("money", ["It costs $5 and then $6.", "20$ or 30$", r"\$5"])
def test_sums_of_money_are_no_formulas(money):
    assert "<math" not in as_html(money)


def test_a_formula_that_cannot_be_read_is_shown_as_typed():
    assert "<code>\\frac{</code>" in as_html("so $\\frac{$ it is")


def test_code_keeps_its_lines_and_its_signs():
    made = as_html("```python\nif a < b:\n    print('x')\n```")
    assert "if a &lt; b:\n    print(" in made


def test_a_legend_holds_no_block_and_the_rest_follows_it():
    legend, rest = first_and_rest("One\n`two` $x^2$\n\n- three\n- four")
    assert "<p>" not in legend and "<math" in legend and "<code>two</code>" in legend
    assert rest.startswith("<ul>")
    assert first_and_rest("```\ncode\n```\n\nWhat is it?")[0] == ""


def test_headings_come_below_those_of_the_notebook():
    made = as_html("# Report\n\n## To review\n\n### Topic")
    assert [f"<h{k}>" in made for k in (1, 2, 3, 4, 5)] == [False, False, True, True, True]
